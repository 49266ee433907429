import { Parameters } from "../autograd/parameters.ts";
import { type Dataset, trainingSequence } from "../data/dataset.ts";
import { addedTokens, declareLaser } from "../laser/laser.ts";
import type { Texts } from "../laser/text.ts";
import type { DecoderConfig } from "../llm/decoder-config.ts";
import { decoderBytes } from "../llm/load.ts";
import {
  activationBytes,
  type LargeTensor,
  type MemoryPlan,
  pooled,
  widestActivationBytes,
} from "../llm/memory.ts";
import type { Config } from "./config.ts";
import { recommenderExtent } from "./recommender-file.ts";
import type { RecommenderSettings } from "./recommender-settings.ts";

/** Users and items whose texts are tokenized to see how long texts are. */
const SAMPLE = 200;

/**
 * Activations of the M-Former per row of queries, block and unit of its width: the projections, attention, two
 * norms and the four-fold feed-forward of a block (about 20 widths, half the blocks with cross-attention).
 */
const MFORMER_WIDTHS = 24;

/** What training a run needs, from its shapes and a sample of its texts. */
export function trainingMemory(
  config: Config,
  dataset: Dataset,
  backbone: DecoderConfig,
  texts: Texts,
  recommender: RecommenderSettings,
): MemoryPlan {
  const added = addedTokens(config);
  const every = (n: number) => Math.max(1, Math.floor(n / SAMPLE));
  let longest = 0;
  for (let u = 0; u < dataset.users.length; u += every(dataset.users.length)) {
    const history = trainingSequence(dataset.sequences[u]);
    if (history.length) longest = Math.max(longest, texts.user(history).ids.length + added);
  }
  let shortest = Number.POSITIVE_INFINITY;
  for (let i = 0; i < dataset.items.length; i += every(dataset.items.length)) {
    shortest = Math.min(shortest, texts.item(i).ids.length + added);
  }
  const batchTokens = config.batchSize * longest;
  const encodedTokens = Math.max(config.tokenBudget, longest);
  // No step encodes more texts than there are.
  const encodedTexts = Math.min(
    Math.ceil(encodedTokens / shortest),
    Math.max(dataset.items.length, dataset.users.length),
  );
  const queryRows = (texts: number) =>
    config.prefix === "mformer" ? texts * config.activeExperts * config.queryTokens : 0;
  const mformer = (texts: number, blocks: number) =>
    4 * queryRows(texts) * config.mformerWidth * blocks * MFORMER_WIDTHS;
  const training =
    activationBytes(backbone, batchTokens, true) + 2 * mformer(config.batchSize, config.mformerBlocks);
  // Without gradients a block's values end with the block.
  const encoding = activationBytes(backbone, encodedTokens, false) + mformer(encodedTexts, 1);
  const itemBytes = 4 * dataset.items.length * backbone.hiddenSize;

  const parts = [
    { name: "backbone weights", bytes: decoderBytes(backbone, config.weights) },
    { name: "activations", bytes: pooled(Math.max(training, encoding)) },
    // Values, gradients and the two moments of Adam.
    {
      name: "trainable parameters and optimiser",
      bytes: 4 * 4 * trainableSize(config, backbone.hiddenSize, recommender.width),
    },
    { name: "item embeddings", bytes: itemBytes },
    { name: "recommender", bytes: recommenderExtent(dataset.items.length, recommender).bytes },
  ];
  const smaller = "use a smaller --token-budget";
  const tensors: LargeTensor[] = [
    {
      name: "encoding's widest activation",
      bytes: widestActivationBytes(backbone, encodedTokens),
      advice: smaller,
      windowed: false,
    },
    {
      name: "training's widest activation",
      bytes: widestActivationBytes(backbone, batchTokens),
      advice: "use a smaller --batch-size (and --accumulate more batches) or a smaller --max-history",
      windowed: false,
    },
    {
      name: "the M-Former's feed-forward while encoding",
      bytes: 16 * queryRows(encodedTexts) * config.mformerWidth,
      advice: smaller,
      windowed: false,
    },
    {
      name: "the M-Former's feed-forward in training",
      bytes: 16 * queryRows(config.batchSize) * config.mformerWidth,
      advice: "use a smaller --batch-size",
      windowed: false,
    },
    {
      name: "the M-Former's feed-forward experts",
      bytes:
        config.prefix === "mformer" && config.moe === "ffn"
          ? 16 * config.experts * config.mformerWidth ** 2
          : 0,
      advice: "use fewer --experts or a smaller --mformer-width",
      windowed: false,
    },
    { name: "the item embeddings", bytes: itemBytes, advice: "use fewer items", windowed: true },
  ];
  return { parts, tensors };
}

/** Elements of the flat buffer of Laser's trainable parameters. */
function trainableSize(config: Config, hiddenSize: number, collaborativeWidth: number): number {
  const parameters = new Parameters();
  declareLaser(parameters, config, hiddenSize, collaborativeWidth);
  return parameters.flatSize;
}
