import type { Dataset } from "../data/dataset.ts";
import type { Gpu } from "../gpu/device.ts";
import { checkMemory, type MemoryPlan } from "../llm/memory.ts";
import type { BackboneFiles } from "../train/backbone.ts";
import type { Config } from "../train/config.ts";
import { planMemory, sampledSizes } from "../train/memory.ts";
import { recommenderPositions } from "../train/recommender-file.ts";
import type { RecommenderSettings } from "../train/recommender-settings.ts";
import { runTexts } from "../train/session.ts";

/** What a run will need. Throws UserError for what cannot fit, before any weights are read. */
export async function checkRunMemory(
  gpu: Gpu,
  config: Config,
  dataset: Dataset,
  files: BackboneFiles,
  recommender: RecommenderSettings,
): Promise<MemoryPlan> {
  const { tokenizer, config: backbone } = files;
  const texts = runTexts(dataset.items, tokenizer, backbone, recommenderPositions(recommender), config);
  const sizes = sampledSizes(config, dataset, texts);
  const items = dataset.items.length;
  const plan = await planMemory(gpu.traits, { config, backbone, recommender, items, ...sizes });
  checkMemory(plan, gpu.traits);
  return plan;
}
