import type { Dataset } from "../data/dataset.ts";
import type { Gpu } from "../gpu/device.ts";
import { checkMemory, describeMemory } from "../llm/memory.ts";
import type { BackboneFiles } from "../train/backbone.ts";
import type { Config } from "../train/config.ts";
import { trainingMemory } from "../train/memory.ts";
import { recommenderExtent } from "../train/recommender-file.ts";
import type { RecommenderSettings } from "../train/recommender-settings.ts";
import { runTexts } from "../train/session.ts";

/** What a run will need, in a line. Throws UserError for what cannot fit, before any weights are read. */
export function checkRunMemory(
  gpu: Gpu,
  config: Config,
  dataset: Dataset,
  files: BackboneFiles,
  settings: RecommenderSettings,
): string {
  const { maxLength } = recommenderExtent(dataset.items.length, settings);
  const texts = runTexts(dataset.items, files.tokenizer, files.config, maxLength, config);
  const plan = trainingMemory(config, dataset, files.config, texts, settings);
  checkMemory(plan, {
    adapterName: gpu.adapterName,
    software: gpu.software,
    maxBufferBytes: gpu.device.limits.maxBufferSize,
    maxBindingBytes: gpu.maxBindingBytes,
  });
  return describeMemory(plan);
}
