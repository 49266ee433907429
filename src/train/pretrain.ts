/**
 * Training of the ID recommenders (`laser pretrain`): one loop for all of them, to the epoch with the best validation
 * NDCG@10. What differs, the model and the batches of an epoch, is in src/recommenders.
 */
import { mkdir } from "node:fs/promises";
import { ADAM, Adam } from "../autograd/adam.ts";
import { type Dataset, trainingSequence, validationCase } from "../data/dataset.ts";
import { mean, ndcg, recall } from "../eval/metrics.ts";
import { rankRecommender } from "../eval/rank-recommender.ts";
import type { RankingCase } from "../eval/seen.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { clozeBatches } from "../recommenders/cloze.ts";
import { nextItemBatches } from "../recommenders/next-item.ts";
import type { TrainableRecommender, TrainingBatch } from "../recommenders/recommender.ts";
import type { Flat } from "./checkpoint.ts";
import { PretrainState } from "./pretrain-state.ts";
import type { Progress } from "./progress.ts";
import { buildRecommender, loadTrained, saveTrained } from "./recommender-file.ts";
import type { PretrainSettings } from "./recommender-settings.ts";

export interface Pretrained {
  readonly model: TrainableRecommender;
  /** Null when it was trained before. */
  readonly bestEpoch: number | null;
  /** The signal stopped the training; called again, it goes on. */
  readonly interrupted: boolean;
}

/**
 * Trains (or resumes, or loads) the recommender of a dataset. Throws UserError for files that do not fit. Aborting the
 * signal stops after the current update; what was done is saved.
 */
export async function pretrain(
  gpu: Gpu,
  dataset: Dataset,
  settings: PretrainSettings,
  folder: string,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Pretrained> {
  const cached = await loadTrained(gpu, dataset, settings, folder);
  if (cached) return { model: cached, bestEpoch: null, interrupted: false };
  await mkdir(folder, { recursive: true });
  const model = buildRecommender(gpu, dataset, settings);
  const adam = new Adam(gpu, model.parameters, ADAM);
  try {
    const state = new PretrainState(gpu, model.parameters, adam, folder);
    await state.restore();
    const finished = await new Training(gpu, dataset, settings, model, adam, state, progress).run(signal);
    if (!finished) {
      await state.save();
      return { model, bestEpoch: state.position.bestEpoch, interrupted: true };
    }
    gpu.write(model.parameters.values, state.best!);
    await saveTrained(gpu, model, dataset, settings, folder);
    await state.remove();
    return { model, bestEpoch: state.position.bestEpoch, interrupted: false };
  } finally {
    adam.release();
  }
}

class Training {
  private readonly sequences: readonly Uint32Array[];
  private readonly cases: readonly RankingCase[];
  /** Whether the kernels of an update are compiled. */
  private warmed = false;
  /** What the last epoch came to. */
  private told = "";

  constructor(
    private readonly gpu: Gpu,
    dataset: Dataset,
    private readonly settings: PretrainSettings,
    private readonly model: TrainableRecommender,
    private readonly adam: Adam,
    private readonly state: PretrainState,
    private readonly progress: Progress,
  ) {
    // One item teaches a cloze (as a mask alone) little, and next-item prediction nothing.
    const least = settings.recommender === "sasrec" ? 2 : 1;
    this.sequences = dataset.sequences.map(trainingSequence).filter(({ length }) => length >= least);
    if (this.sequences.length === 0) {
      throw new UserError(
        `${dataset.name}: no user has ${least} training items; ${model.label} learns nothing from it`,
      );
    }
    this.cases = dataset.sequences.map(validationCase).filter((row) => row !== null);
  }

  private get done(): boolean {
    const { epoch, sinceBest } = this.state.position;
    return epoch >= this.settings.epochs || sinceBest >= this.settings.patience;
  }

  /** Trains to the end, and returns true, or until the signal aborts. */
  async run(signal?: AbortSignal): Promise<boolean> {
    const { position } = this.state;
    while (!this.done) {
      if (!(await this.epoch(signal))) {
        this.progress.end();
        return false;
      }
      await this.endEpoch();
    }
    this.progress.line(
      `${this.model.label}: best validation NDCG@10 ${position.bestScore.toFixed(4)} at epoch ${position.bestEpoch}`,
    );
    return true;
  }

  /** What is left of the current epoch. Returns false when the signal stopped it. */
  private async epoch(signal?: AbortSignal): Promise<boolean> {
    const { progress, sequences, model } = this;
    const { position } = this.state;
    const done = position.batch;
    let pending: Promise<void> = Promise.resolve();
    let batches = 0;
    let seen = 0;
    for (const batch of this.batches(position.epoch)) {
      const before = seen;
      seen += batch.sequences.length;
      if (batches++ < done) continue;
      if (signal?.aborted) break;
      if (batches === done + 1) {
        progress.begin(`${model.label} epoch ${position.epoch + 1}`, sequences.length, "sequences", before);
      }
      if (!this.warmed) await this.warm(batch);
      const update = this.update(batch);
      // A failure is reported where it is awaited: after the one before it.
      update.catch(() => {});
      // The host makes the next batch while the GPU works on this one.
      await pending;
      pending = update;
      progress.update(seen, this.told);
    }
    await pending;
    return !signal?.aborted;
  }

  /** Validates when it is time, and saves. */
  private async endEpoch(): Promise<void> {
    const { settings, state, progress } = this;
    const { position } = state;
    const loss = position.lossSum / position.targets;
    Object.assign(position, { epoch: position.epoch + 1, batch: 0, lossSum: 0, targets: 0 });
    const { epoch, updates } = position;
    if (!Number.isFinite(loss)) {
      throw new UserError(
        `pretraining diverged in epoch ${epoch}; lower the learning rate and begin anew with --fresh`,
      );
    }
    this.told = `loss ${loss.toFixed(3)}`;
    if (updates - position.validated < settings.validateEvery && epoch < settings.epochs) {
      progress.end();
      return;
    }
    position.validated = updates;
    progress.end(`${this.told}, ${await this.validate()}`);
    await state.save();
  }

  private batches(epoch: number): Iterable<TrainingBatch> {
    const { model, settings, sequences } = this;
    if (settings.recommender === "sasrec") {
      return nextItemBatches(sequences, model.itemCount, settings, epoch);
    }
    const newest = sequences.map((sequence) => sequence.slice(-settings.maxLength));
    return clozeBatches(newest, model.itemCount, settings, epoch);
  }

  /** Records forward, backward and Adam of one batch; returns the sum of its losses [1]. */
  private record(step: Step, batch: TrainingBatch): Tensor {
    const { model, adam, settings } = this;
    const key = { seed: settings.seed, step: this.state.position.updates };
    const loss = model.trainStep(step, batch, key);
    adam.update(step, settings.learningRate);
    return loss;
  }

  /** Compiles the kernels of an update in parallel. */
  private async warm(batch: TrainingBatch): Promise<void> {
    const { updates } = this.adam;
    await this.gpu.warm((step) => this.record(step, batch));
    this.adam.updates = updates;
    this.model.parameters.clearGradients();
    this.warmed = true;
  }

  /** Submits one update; done when its loss is counted. */
  private async update(batch: TrainingBatch): Promise<void> {
    const { position } = this.state;
    const step = this.gpu.step("pretrain");
    const loss = step.readFloats(this.record(step, batch));
    position.updates++;
    position.batch++;
    await step.submit();
    position.lossSum += (await loss)[0];
    position.targets += batch.targets.length;
  }

  /** Ranks the validation items; keeps the parameters when they are the best so far. Returns what to print. */
  private async validate(): Promise<string> {
    const { gpu, model, state, cases } = this;
    const { position } = state;
    const { rank } = await rankRecommender(gpu, model, cases, { excludeSeen: false });
    const score = mean(rank, (r) => ndcg(r, 10));
    if (score > position.bestScore) {
      Object.assign(position, { bestScore: score, bestEpoch: position.epoch, sinceBest: 0 });
      state.best = (await gpu.read(model.parameters.values)) as Flat;
    } else position.sinceBest++;
    const hits = mean(rank, (r) => recall(r, 10));
    return `validation NDCG@10 ${score.toFixed(4)}, Recall@10 ${hits.toFixed(4)}, best at epoch ${position.bestEpoch}`;
  }
}
