/**
 * The memory that training a run needs, from its shapes alone: a step of training and one of encoding are recorded on a
 * GPU that computes nothing (gpu/counting-device.ts), by the very code that trains. So the account cannot disagree with
 * the program: it is what the recorded steps take, to the byte.
 */
import { ADAM, Adam } from "../autograd/adam.ts";
import { type Dataset, trainingSequence } from "../data/dataset.ts";
import { UserError } from "../files/user-error.ts";
import type { AdapterTraits } from "../gpu/counting-device.ts";
import { Gpu } from "../gpu/device.ts";
import { GpuBindingError, GpuOutOfMemoryError } from "../gpu/errors.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { addedTokens, Laser } from "../laser/laser.ts";
import type { Texts, TokenizedText } from "../laser/text.ts";
import { Decoder, type DecoderSaved } from "../llm/decoder.ts";
import type { DecoderConfig } from "../llm/decoder-config.ts";
import type { DecoderWeights } from "../llm/decoder-weights.ts";
import { unloadedDecoder } from "../llm/load.ts";
import type { MemoryPart, MemoryPlan } from "../llm/memory.ts";
import type { PromptBatch } from "../llm/prompt.ts";
import type { Recommender } from "../recommenders/recommender.ts";
import type { Config } from "./config.ts";
import { unbuiltRecommender } from "./recommender-file.ts";
import type { RecommenderSettings } from "./recommender-settings.ts";

/** The size of a text: its tokens, without those that Laser adds, and the items that it shows. */
export interface TextSize {
  readonly tokens: number;
  readonly items: number;
}

/** What decides how much memory training takes. */
export interface Workload {
  readonly config: Config;
  readonly backbone: DecoderConfig;
  readonly recommender: RecommenderSettings;
  /** Rows of E. */
  readonly items: number;
  /** The texts of the largest training batch. */
  readonly batch: readonly TextSize[];
  /** The texts of the largest step of encoding. */
  readonly encoded: readonly TextSize[];
}

/** What to make smaller, by part. */
const ADVICE = {
  backbone: "a smaller backbone, or a smaller --weights",
  training: "a smaller --batch-size (and --accumulate more batches) or a smaller --max-history",
  encoding: "a smaller --token-budget",
  trainable: "a smaller --mformer-width or fewer --experts",
  items: "fewer items",
  recommender: "a smaller recommender",
};

/**
 * The account of a run that trains on batches up to the given one. Smaller batches take the same buffers where the pool
 * has them from the start (`pool`, Buffers.reserve); else it may come to hold half as much again, in smaller ones.
 *
 * @throws UserError when a tensor does not fit one buffer or binding of the adapter, and what to make smaller.
 */
export async function planMemory(traits: AdapterTraits, workload: Workload): Promise<MemoryPlan> {
  const { config, backbone, items } = workload;
  using gpu = Gpu.counting(traits);
  const parts: MemoryPart[] = [];
  /** Adds what `record` takes as a part. */
  const account = async <T>(name: string, advice: string, record: () => T | Promise<T>): Promise<T> => {
    const before = gpu.buffers.bytes;
    const result = await fitting(`${name} of this run`, advice, traits, record);
    parts.push({ name, advice, bytes: gpu.buffers.bytes - before });
    return result;
  };

  const unloaded = await account("backbone weights", ADVICE.backbone, () =>
    unloadedDecoder(gpu, backbone, config.weights),
  );
  const decoder = new WatchedDecoder(gpu, unloaded.config, unloaded.weights);
  const recommender = await account("recommender", ADVICE.recommender, () =>
    unbuiltRecommender(gpu, items, workload.recommender),
  );
  const laser = laserOf(config, decoder, recommender);
  const adam = await account("trainable parameters and optimiser", ADVICE.trainable, () => {
    laser.parameters.allocate(gpu);
    return new Adam(gpu, laser.parameters, ADAM);
  });
  const embeddings = await account("item embeddings", ADVICE.items, () =>
    gpu.parameter([items, backbone.hiddenSize]),
  );

  const beforeTraining = gpu.buffers.bytes;
  await fitting("a training step", ADVICE.training, traits, () =>
    inStep(gpu, (step) => {
      const { temperature, lambda, loadBalancing } = config;
      const texts = textsOf(workload.batch, items);
      const targets = new Uint32Array(texts.length);
      const key = { seed: 1, step: 0 };
      laser.trainStep(step, texts, targets, embeddings, { temperature, lambda, loadBalancing }, key);
      adam.update(step, config.learningRate);
    }),
  );
  const training = gpu.buffers.bytes - beforeTraining;
  const kept = Math.min(decoder.taken, decoder.kept);
  const named = [
    { name: "kept layer inputs", bytes: kept },
    { name: "backbone's forward and recomputation", bytes: decoder.taken - kept },
    { name: "M-Former, recommender and loss", bytes: training - decoder.taken },
  ];
  for (const part of named) parts.push({ ...part, advice: ADVICE.training });
  await account("encoding, beyond training's buffers", ADVICE.encoding, () =>
    inStep(gpu, (step) => void laser.encode(step, textsOf(workload.encoded, items))),
  );
  return { parts, pool: gpu.buffers.freeSizes };
}

function laserOf(config: Config, decoder: Decoder, recommender: Recommender): Laser {
  const collaborative = (step: Step, histories: readonly (readonly number[])[]): Tensor =>
    recommender.hiddenStates(step, histories);
  return new Laser(config, decoder, collaborative, recommender.width);
}

async function inStep(gpu: Gpu, record: (step: Step) => void): Promise<void> {
  const step = gpu.step("plan");
  record(step);
  await step.submit();
}

/** Runs `record`; a tensor that the adapter cannot hold or bind becomes a UserError with the advice. */
async function fitting<T>(
  what: string,
  advice: string,
  { name }: AdapterTraits,
  record: () => T | Promise<T>,
): Promise<T> {
  try {
    return await record();
  } catch (error) {
    if (!(error instanceof GpuOutOfMemoryError || error instanceof GpuBindingError)) throw error;
    throw new UserError(`${what} cannot be had on this adapter (${name}): ${error.message}; use ${advice}`);
  }
}

/** Tells the buffers that the backbone's own passes take from those of everything around it. */
class WatchedDecoder extends Decoder {
  /** Bytes of the buffers that the pool first made for its passes. */
  taken = 0;
  /** Bytes of the inputs of its layers, kept from forward to backward. */
  kept = 0;

  constructor(
    private readonly gpu: Gpu,
    config: DecoderConfig,
    weights: DecoderWeights<Tensor>,
  ) {
    super(config, weights);
  }

  private watch<T>(pass: () => T): T {
    const before = this.gpu.buffers.bytes;
    const result = pass();
    this.taken += this.gpu.buffers.bytes - before;
    return result;
  }

  override forward(
    step: Step,
    batch: PromptBatch,
    prefix: Tensor | null,
    suffix: Tensor | null,
    keep: boolean,
  ) {
    const result = this.watch(() => super.forward(step, batch, prefix, suffix, keep));
    for (const input of result.saved?.inputs ?? []) this.kept += this.gpu.buffers.classOf(input.bytes);
    return result;
  }

  override backward(step: Step, saved: DecoderSaved, dHidden: Tensor): Tensor {
    return this.watch(() => super.backward(step, saved, dHidden));
  }
}

/** Texts of these sizes; what they say does not matter. */
function textsOf(sizes: readonly TextSize[], itemCount: number): TokenizedText[] {
  return sizes.map(({ tokens, items }) => ({
    ids: new Uint32Array(tokens),
    items: Array.from({ length: items }, (_, i) => i % itemCount),
  }));
}

/** Users and items whose texts are tokenized to see how long texts are. */
const SAMPLE = 200;

/** The largest batch and the largest step of encoding, from a sample of a dataset's texts. */
export function sampledSizes(
  config: Config,
  dataset: Dataset,
  texts: Texts,
): Pick<Workload, "batch" | "encoded"> {
  const every = (n: number) => Math.max(1, Math.floor(n / SAMPLE));
  let longest: TextSize = { tokens: 1, items: 1 };
  for (let u = 0; u < dataset.users.length; u += every(dataset.users.length)) {
    const history = trainingSequence(dataset.sequences[u]);
    if (!history.length) continue;
    const { ids, items } = texts.user(history);
    if (ids.length > longest.tokens) longest = { tokens: ids.length, items: items.length };
  }
  let shortest = Number.POSITIVE_INFINITY;
  for (let i = 0; i < dataset.items.length; i += every(dataset.items.length)) {
    shortest = Math.min(shortest, texts.item(i).ids.length);
  }
  // No step encodes more texts than there are.
  const most = Math.max(dataset.items.length, dataset.users.length);
  return {
    batch: new Array<TextSize>(config.batchSize).fill(longest),
    encoded: encodingStep(config, shortest, most),
  };
}

/** A step that encodes item texts of this many tokens up to the budget, or at least one; `most` at most. */
export function encodingStep(config: Config, tokens: number, most: number): TextSize[] {
  const count = Math.floor(config.tokenBudget / (tokens + addedTokens(config)));
  return new Array<TextSize>(Math.max(1, Math.min(count, most))).fill({ tokens, items: 1 });
}
