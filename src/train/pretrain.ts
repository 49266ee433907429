/**
 * Training of the ID recommender (`laser pretrain`): BERT4Rec's cloze task over the training sequences, to the epoch
 * with the best validation NDCG@10. The result is kept by the hash of the data, so that every run over the same data
 * reads the same frozen recommender.
 */
import { existsSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { ADAM, Adam } from "../autograd/adam.ts";
import { type Dataset, trainingCounts, trainingSequence, validationCase } from "../data/dataset.ts";
import { Random } from "../data/random.ts";
import { mean, ndcg, recall } from "../eval/metrics.ts";
import { rankRecommender } from "../eval/rank-recommender.ts";
import { openSafetensors, writeSafetensors } from "../files/safetensors.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import { Bert4Rec, type Bert4RecSizes, type MaskedBatch } from "../recommenders/bert4rec.ts";
import type { Flat } from "./checkpoint.ts";
import type { Progress } from "./progress.ts";

export interface PretrainSettings {
  readonly width: number;
  readonly heads: number;
  readonly blocks: number;
  readonly maxLength: number;
  readonly dropout: number;
  /** Share of positions masked in a random cloze. */
  readonly maskRate: number;
  /** Share of sequences whose last item alone is masked, as in prediction. */
  readonly lastOnly: number;
  readonly batchSize: number;
  readonly learningRate: number;
  readonly epochs: number;
  /** Validations without a better NDCG@10 before training stops. */
  readonly patience: number;
  /** Epochs between validations. */
  readonly validateEvery: number;
  readonly seed: number;
}

/**
 * Two blocks, two heads of 32 (the paper's appendix B). The rest reaches the plateau on short histories: validation
 * stands still for the first tens of epochs, so patience must outlast that.
 */
export const PRETRAIN: PretrainSettings = {
  width: 64,
  heads: 2,
  blocks: 2,
  maxLength: 50,
  dropout: 0.2,
  maskRate: 0.3,
  lastOnly: 0.5,
  batchSize: 128,
  learningRate: 1e-3,
  epochs: 200,
  patience: 10,
  validateEvery: 5,
  seed: 1,
};

/** Masks one training sequence: the last item alone, or each with the mask rate and at least one. */
function cloze(random: Random, items: Uint32Array, settings: PretrainSettings): boolean[] {
  const n = items.length;
  const masked = new Array<boolean>(n).fill(false);
  if (n === 1 || random.uniform() < settings.lastOnly) {
    masked[n - 1] = true;
    return masked;
  }
  for (let i = 0; i < n; i++) masked[i] = random.uniform() < settings.maskRate;
  if (!masked.includes(true)) masked[random.below(n)] = true;
  return masked;
}

/** The batches of one epoch: a function of (seed, epoch) alone. */
function* epochBatches(
  sequences: readonly Uint32Array[],
  mask: number,
  settings: PretrainSettings,
  epoch: number,
) {
  const random = new Random(settings.seed, "cloze", epoch);
  const order = random.permutation(sequences.length);
  for (let from = 0; from < order.length; from += settings.batchSize) {
    const inputs: number[][] = [];
    const rows: number[] = [];
    const targets: number[] = [];
    let row = 0;
    for (const s of order.subarray(from, from + settings.batchSize)) {
      const items = sequences[s];
      const masked = cloze(random, items, settings);
      inputs.push(
        Array.from(items, (item, i) => {
          if (masked[i]) {
            rows.push(row + i);
            targets.push(item);
            return mask;
          }
          return item;
        }),
      );
      row += items.length;
    }
    const batch: MaskedBatch = {
      sequences: inputs,
      maskedRows: Uint32Array.from(rows),
      targets: Uint32Array.from(targets),
    };
    yield batch;
  }
}

interface PretrainPosition {
  epoch: number;
  updates: number;
  sinceBest: number;
  bestScore: number;
  bestEpoch: number;
  finished: boolean;
}

/** Where the recommender of a dataset is kept inside a cache folder. */
export function recommenderFolder(cache: string, dataset: Dataset, settings: PretrainSettings): string {
  const shape = `${settings.width}-${settings.heads}-${settings.blocks}-${settings.maxLength}-seed${settings.seed}`;
  return join(cache, `bert4rec-${dataset.hash.slice(0, 16)}-${shape}`);
}

const STATE = "pretrain.safetensors";
const RESULT = "recommender.safetensors";

function sizesOf(dataset: Dataset, settings: PretrainSettings): Bert4RecSizes {
  const { width, heads, blocks, maxLength, dropout } = settings;
  return { items: dataset.items.length, width, heads, blocks, maxLength, dropout };
}

/** Builds an untrained BERT4Rec for a dataset; items that training never shows are read as its mask. */
function buildRecommender(gpu: Gpu, dataset: Dataset, settings: PretrainSettings): Bert4Rec {
  const model = new Bert4Rec(sizesOf(dataset, settings));
  model.parameters.build(gpu, settings.seed);
  model.setKnown(trainingCounts(dataset));
  return model;
}

/** Loads the trained recommender of a dataset, or returns null when there is none yet. */
export async function loadRecommender(
  gpu: Gpu,
  dataset: Dataset,
  settings: PretrainSettings,
  folder: string,
): Promise<Bert4Rec | null> {
  const path = join(folder, RESULT);
  if (!existsSync(path)) return null;
  const file = await openSafetensors(path);
  try {
    if (file.metadata.get("data") !== dataset.hash) {
      throw new UserError(
        `${path}: it was trained on other data; remove the folder and run laser pretrain again`,
      );
    }
    const model = buildRecommender(gpu, dataset, settings);
    const tensors = new Map<string, { shape: readonly number[]; data: Float32Array }>();
    for (const [name, { shape }] of file.tensors)
      tensors.set(name, { shape, data: await file.float32(name) });
    gpu.write(
      model.parameters.values,
      model.parameters.join((name) => tensors.get(name), path),
    );
    return model;
  } finally {
    await file.close();
  }
}

/**
 * Trains (or resumes, or loads) the recommender of a dataset. Throws UserError for files that do not fit. Aborting the
 * signal stops at the next epoch's checkpoint.
 */
export async function pretrain(
  gpu: Gpu,
  dataset: Dataset,
  settings: PretrainSettings,
  folder: string,
  progress: Progress,
  signal?: AbortSignal,
): Promise<{ model: Bert4Rec; bestEpoch: number | null; interrupted: boolean }> {
  const cached = await loadRecommender(gpu, dataset, settings, folder);
  if (cached) return { model: cached, bestEpoch: null, interrupted: false };
  await mkdir(folder, { recursive: true });
  const model = buildRecommender(gpu, dataset, settings);
  const adam = new Adam(gpu, model.parameters, ADAM);
  const state = await Pretraining.restore(gpu, model, adam, folder);
  const sequences = dataset.sequences
    .map((sequence) => trainingSequence(sequence).slice(-settings.maxLength))
    .filter((sequence) => sequence.length > 0);
  const cases = dataset.sequences.map(validationCase).filter((row) => row !== null);
  const { position } = state;
  const done = () => position.epoch >= settings.epochs || position.sinceBest >= settings.patience;
  progress.begin("pretraining BERT4Rec", settings.epochs, "epochs", position.epoch);
  while (!done() && !signal?.aborted) {
    const loss = await epochOf(gpu, model, adam, sequences, settings, position);
    position.epoch++;
    let text = `loss ${loss.toFixed(3)}`;
    if (position.epoch % settings.validateEvery === 0 || position.epoch === settings.epochs) {
      const { rank } = await rankRecommender(gpu, model, cases, { excludeSeen: false });
      const score = mean(rank, (r) => ndcg(r, 10));
      if (score > position.bestScore) {
        Object.assign(position, { bestScore: score, bestEpoch: position.epoch, sinceBest: 0 });
        state.best = (await gpu.read(model.parameters.values)) as Flat;
      } else position.sinceBest++;
      const hits = mean(rank, (r) => recall(r, 10));
      text += `, validation NDCG@10 ${score.toFixed(4)}, Recall@10 ${hits.toFixed(4)}, best at epoch ${position.bestEpoch}`;
      await state.save(gpu, model, adam, folder);
    }
    progress.update(position.epoch, text);
  }
  progress.end(`best validation NDCG@10 ${position.bestScore.toFixed(4)} at epoch ${position.bestEpoch}`);
  const interrupted = Boolean(signal?.aborted) && !done();
  if (!interrupted) {
    gpu.write(model.parameters.values, state.best ?? ((await gpu.read(model.parameters.values)) as Flat));
    await saveResult(gpu, model, dataset, folder);
    await rm(join(folder, STATE), { force: true });
  }
  adam.release();
  return { model, bestEpoch: position.bestEpoch, interrupted };
}

/** Trains one epoch; returns the mean loss of the masked positions. */
async function epochOf(
  gpu: Gpu,
  model: Bert4Rec,
  adam: Adam,
  sequences: readonly Uint32Array[],
  settings: PretrainSettings,
  position: PretrainPosition,
): Promise<number> {
  let sum = 0;
  let count = 0;
  let pending: Promise<void> = Promise.resolve();
  for (const batch of epochBatches(sequences, model.mask, settings, position.epoch)) {
    const key = { seed: settings.seed, step: position.updates };
    if (position.updates === 0) {
      await gpu.warm((step) => {
        model.trainStep(step, batch, key);
        adam.update(step, settings.learningRate);
      });
      adam.updates = 0;
      model.parameters.clearGradients();
    }
    const step = gpu.step("pretrain");
    const loss = step.readFloats(model.trainStep(step, batch, key));
    adam.update(step, settings.learningRate);
    const submitted = step.submit();
    await pending;
    pending = submitted.then(async () => {
      sum += (await loss)[0];
      count += batch.targets.length;
    });
    position.updates++;
  }
  await pending;
  if (!Number.isFinite(sum))
    throw new UserError(`pretraining diverged in epoch ${position.epoch + 1}; lower the learning rate`);
  return sum / count;
}

/** The state between epochs, for resuming. */
class Pretraining {
  private constructor(
    readonly position: PretrainPosition,
    public best: Flat | null,
  ) {}

  static async restore(gpu: Gpu, model: Bert4Rec, adam: Adam, folder: string): Promise<Pretraining> {
    const path = join(folder, STATE);
    const start = { epoch: 0, updates: 0, sinceBest: 0, bestScore: -1, bestEpoch: 0, finished: false };
    if (!existsSync(path)) return new Pretraining(start, null);
    const file = await openSafetensors(path);
    try {
      const position = JSON.parse(file.metadata.get("position") ?? "null") as PretrainPosition | null;
      if (!position) throw new UserError(`${path}: not a pretraining state; remove it to start anew`);
      const read = async (name: string) => (await file.float32(name)) as Flat;
      gpu.write(model.parameters.values, await read("values"));
      gpu.write(adam.m, await read("adam.m"));
      gpu.write(adam.v, await read("adam.v"));
      adam.updates = position.updates;
      return new Pretraining(position, file.tensors.has("best") ? await read("best") : null);
    } finally {
      await file.close();
    }
  }

  async save(gpu: Gpu, model: Bert4Rec, adam: Adam, folder: string): Promise<void> {
    const flat = async (name: string, tensor: typeof adam.m) => ({
      name,
      dtype: "F32" as const,
      shape: [tensor.size],
      data: (await gpu.read(tensor)) as Flat,
    });
    const tensors = [
      await flat("values", model.parameters.values),
      await flat("adam.m", adam.m),
      await flat("adam.v", adam.v),
    ];
    if (this.best) tensors.push({ name: "best", dtype: "F32", shape: [this.best.length], data: this.best });
    await writeSafetensors(join(folder, STATE), tensors, { position: JSON.stringify(this.position) });
  }
}

async function saveResult(gpu: Gpu, model: Bert4Rec, dataset: Dataset, folder: string): Promise<void> {
  const values = (await gpu.read(model.parameters.values)) as Flat;
  const tensors = [...model.parameters.split(values)].map(([name, { shape, data }]) => ({
    name,
    dtype: "F32" as const,
    shape,
    data,
  }));
  await writeSafetensors(join(folder, RESULT), tensors, { data: dataset.hash, kind: "bert4rec" });
}
