import { join } from "node:path";
import { detectAndRead } from "../src/data/detect.ts";
import { prepare } from "../src/data/prepare.ts";
import { saveDataset } from "../src/data/storage.ts";
import type { Gpu } from "../src/gpu/device.ts";
import { loadBackbone, openBackbone } from "../src/train/backbone.ts";
import { type Config, checkConfig, defaultConfig } from "../src/train/config.ts";
import type { Job } from "../src/train/job.ts";
import { SILENT } from "../src/train/progress.ts";
import { trainedRecommender } from "../src/train/recommender.ts";
import { PRETRAIN } from "../src/train/recommender-settings.ts";
import { writeTinyBackbone, writeTinyData } from "./tiny-job.ts";

/** The tiny data, recommender and backbone of tiny-job.ts, opened in this process; everything lies under `folder`. */
export async function openTinyJob(gpu: Gpu, folder: string): Promise<Job> {
  const dataset = prepare(await detectAndRead(writeTinyData(join(folder, "raw")), () => {}));
  const source = join(folder, "data");
  await saveDataset(source, dataset);
  const settings = { ...PRETRAIN.bert4rec, width: 8, heads: 2, blocks: 1, epochs: 2 };
  const options = { progress: SILENT, folder: join(folder, "recommender") };
  const recommender = await trainedRecommender(gpu, dataset, settings, options);
  const files = await openBackbone(await writeTinyBackbone(join(folder, "backbone")));
  const backbone = await loadBackbone(gpu, files, "f32", SILENT);
  return { gpu, data: { dataset, source }, recommender, backbone, progress: SILENT };
}

/** A configuration as small as it can be, and of one update an epoch. */
export function tinyConfig(values: Partial<Config> = {}): Config {
  const tiny: Config = {
    ...defaultConfig(),
    weights: "f32",
    template: "no-instruction",
    maxHistory: 2,
    queryTokens: 2,
    experts: 3,
    activeExperts: 2,
    mformerWidth: 8,
    mformerBlocks: 2,
    mformerHeads: 2,
    batchSize: 24,
    examples: "random",
    learningRate: 1e-2,
    phase1Epochs: 1,
    phase2Epochs: 1,
  };
  return checkConfig({ ...tiny, ...values }, "the test");
}
