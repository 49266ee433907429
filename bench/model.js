/** A whole Laser with random weights: what the benchmarks of training steps and of encoding run. */
import { llamaConfig, randomLlama } from "./backbone.js";
import { laser, noise } from "./harness.js";

/** `laser demo`'s sizes. */
export const DEMO = {
  name: "demo",
  backbone: { d: 64, layers: 3, heads: 4, keyValueHeads: 2, intermediate: 128 },
  mformer: { mformerWidth: 64, mformerBlocks: 2, mformerHeads: 4 },
  queries: { experts: 4, activeExperts: 2, queryTokens: 4 },
  batch: 32,
  history: 5,
  longest: 140,
  items: 2000,
};
export const MIDDLE = {
  name: "middle",
  backbone: { d: 256, layers: 4, heads: 4, intermediate: 688 },
  mformer: { mformerWidth: 256, mformerBlocks: 4, mformerHeads: 4 },
  queries: { experts: 8, activeExperts: 3, queryTokens: 8 },
  batch: 8,
  history: 10,
  longest: 200,
  items: 2000,
};
/** The paper's M-Former before a backbone that a test machine can make up; for hardware adapters. */
export const PAPER = {
  name: "paper's M-Former",
  backbone: { d: 2048, layers: 4, heads: 32, keyValueHeads: 4, intermediate: 5632 },
  mformer: { mformerWidth: 768, mformerBlocks: 12, mformerHeads: 12 },
  queries: { experts: 8, activeExperts: 3, queryTokens: 32 },
  batch: 4,
  history: 10,
  longest: 400,
  items: 10000,
};
/** For --quick: as small as it can be, so that compiling is most of it. */
export const TINY = {
  name: "tiny",
  backbone: { d: 32, layers: 2, heads: 2, intermediate: 64 },
  mformer: { mformerWidth: 32, mformerBlocks: 2, mformerHeads: 2 },
  queries: { experts: 4, activeExperts: 2, queryTokens: 2 },
  batch: 4,
  history: 3,
  longest: 40,
  items: 50,
};

/** BERT4Rec of the default sizes, a frozen f16 Llama, and Laser between them, all random. */
export async function randomLaser(gpu, size, prefix = "mformer") {
  const config = llamaConfig(size.backbone);
  const llama = await randomLlama(gpu, config, "f16");
  const recommender = new laser.Bert4Rec({ ...laser.PRETRAIN.bert4rec, items: size.items });
  recommender.parameters.build(gpu, 1);
  const sizes = { ...laser.defaultConfig(), ...size.mformer, ...size.queries, prefix };
  const collaborative = (step, histories) => recommender.hiddenStates(step, histories);
  const model = new laser.Laser(sizes, llama, collaborative, recommender.width);
  model.parameters.build(gpu, 1);
  const release = () => {
    model.release(gpu);
    recommender.release(gpu);
    llama.release(gpu);
  };
  return { model, vocabulary: config.vocabularySize, release };
}

/** Random unit rows [count, width]. */
export function unitRows(count, width) {
  const rows = noise(count * width, 7);
  for (let i = 0; i < count; i++) {
    const row = rows.subarray(i * width, (i + 1) * width);
    const norm = Math.hypot(...row);
    for (let k = 0; k < width; k++) row[k] /= norm;
  }
  return rows;
}
