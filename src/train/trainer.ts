/**
 * Two-phase training (paper, section 4.3.2). Phase 1: item embeddings E are encoded anew at the start of every epoch
 * and constant within it; the epoch with the best validation NDCG@10 is kept with its E. Phase 2: from that best, E
 * stays fixed and only the user side goes on. Resumes to the bit from any checkpoint.
 */
import { ADAM, Adam } from "../autograd/adam.ts";
import { type Dataset, trainingSequence, validationCase } from "../data/dataset.ts";
import { mean, ndcg, recall } from "../eval/metrics.ts";
import { rankUsers } from "../eval/rank.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Laser, LossSettings } from "../laser/laser.ts";
import type { Texts } from "../laser/text.ts";
import {
  type Artifact,
  type Encoders,
  type Flat,
  loadCheckpoint,
  type Position,
  type RunState,
  saveArtifact,
  saveCheckpoint,
} from "./checkpoint.ts";
import type { Config } from "./config.ts";
import { encodeAll } from "./encode.ts";
import { type Example, epochExamples, runUsers, trainingUsers } from "./examples.ts";
import { MetricsLog } from "./metrics-log.ts";
import { initialEncoders } from "./origin.ts";
import type { Progress } from "./progress.ts";
import { learningRate } from "./schedule.ts";

export interface TrainOptions {
  readonly gpu: Gpu;
  readonly dataset: Dataset;
  readonly laser: Laser;
  readonly texts: Texts;
  readonly config: Config;
  /** The run's folder; locked by the caller. */
  readonly folder: string;
  readonly progress: Progress;
  /** Aborting stops after the current update, with a checkpoint. */
  readonly signal?: AbortSignal;
}

/** The run was asked to stop; its checkpoint is written. */
export class Interrupted extends Error {
  override name = "Interrupted";
}

const START: Position = {
  phase: 1,
  epoch: 0,
  updateInEpoch: 0,
  updateInPhase: 0,
  update: 0,
  adamUpdates: 0,
  sinceBest: 0,
  bestScore: null,
  bestPhase: 0,
  bestEpoch: 0,
  finished: false,
};

/** Trains a run to its end (or resumes it, when its folder holds a checkpoint) and writes model.safetensors. */
export async function train(options: TrainOptions): Promise<Artifact> {
  const trainer = new Trainer(options);
  try {
    return await trainer.run();
  } finally {
    await trainer.close();
  }
}

class Trainer {
  private state: RunState = { position: { ...START }, items: null, itemEncoder: null, best: null };
  private readonly adam: Adam;
  private readonly items: Tensor;
  /** Users that are validated, and those of them that are trained on. */
  private readonly users: Uint32Array;
  private readonly trained: Uint32Array;
  private readonly loss: LossSettings;
  /** The encoders that the run began with, when they are another run's and nothing has been trained since. */
  private initial: Encoders | null = null;
  private log: MetricsLog | null = null;
  private warmed = false;

  constructor(private readonly options: TrainOptions) {
    const { gpu, laser, config, dataset } = options;
    const { optimizer, beta1, beta2, weightDecay, clip } = config;
    const decay = optimizer === "adamw" ? weightDecay : 0;
    this.adam = new Adam(gpu, laser.parameters, { ...ADAM, beta1, beta2, weightDecay: decay, clip });
    this.items = gpu.parameter([dataset.items.length, laser.backbone.hiddenSize]);
    this.users = runUsers(dataset, config.users);
    this.trained = trainingUsers(this.users, config);
    this.loss = {
      temperature: config.temperature,
      lambda: config.lambda,
      loadBalancing: config.loadBalancing,
    };
  }

  async close(): Promise<void> {
    await this.log?.close();
    this.options.gpu.release(this.items);
    this.adam.release();
  }

  async run(): Promise<Artifact> {
    const { gpu, laser, folder, config, progress } = this.options;
    const restored = await loadCheckpoint(folder, gpu, laser.parameters, this.adam);
    this.initial = restored ? null : await initialEncoders(folder, laser.parameters);
    if (this.initial) gpu.write(laser.parameters.values, this.initial.user);
    if (restored) {
      this.state = restored;
      if (restored.items) gpu.write(this.items, restored.items);
      const { phase, epoch, update } = restored.position;
      progress.line(`resuming at phase ${phase}, epoch ${epoch + 1}, update ${update}`);
    }
    this.log = await MetricsLog.open(folder, this.state.position.update);
    const { position } = this.state;
    // Without a user to train on there is no epoch of either phase: zero-shot.
    const most = (epochs: number) => (this.trained.length ? epochs : 0);
    const goesOn = (epochs: number) => position.epoch < most(epochs) && position.sinceBest < config.patience;
    if (most(config.phase1Epochs) + most(config.phase2Epochs) === 0)
      progress.line("zero-shot: nothing is trained, only the items are encoded");
    if (position.phase === 1) {
      while (goesOn(config.phase1Epochs)) await this.epoch();
      await this.beginPhase2();
    }
    while (!position.finished && goesOn(config.phase2Epochs)) await this.epoch();
    position.finished = true;
    const best = this.state.best!;
    const artifact = { user: best.parameters, item: best.itemEncoder, items: best.items };
    await saveArtifact(folder, laser.parameters, artifact, laser.backbone.hiddenSize);
    await this.checkpoint();
    gpu.write(laser.parameters.values, best.parameters);
    return artifact;
  }

  /** Starts phase 2 from the best of phase 1 (or, without phase 1, from the initial encoders and their E). */
  private async beginPhase2(): Promise<void> {
    const { gpu, laser } = this.options;
    if (this.state.best) {
      gpu.write(laser.parameters.values, this.state.best.parameters);
      this.state.items = this.state.best.items;
      this.state.itemEncoder = this.state.best.itemEncoder;
      gpu.write(this.items, this.state.items);
    } else {
      if (this.initial) gpu.write(laser.parameters.values, this.initial.item);
      await this.encodeItems();
      const itemEncoder = this.state.itemEncoder!;
      const parameters = this.initial?.user ?? itemEncoder;
      gpu.write(laser.parameters.values, parameters);
      this.state.best = { parameters, itemEncoder, items: this.state.items! };
    }
    gpu.write(this.adam.m, new Float32Array(laser.parameters.flatSize));
    gpu.write(this.adam.v, new Float32Array(laser.parameters.flatSize));
    this.adam.updates = 0;
    const { position } = this.state;
    Object.assign(position, {
      phase: 2,
      epoch: 0,
      updateInEpoch: 0,
      updateInPhase: 0,
      adamUpdates: 0,
      sinceBest: 0,
    });
    await this.checkpoint();
  }

  /** The parameters as they are now, on the host. */
  private async snapshot(): Promise<Flat> {
    return (await this.options.gpu.read(this.options.laser.parameters.values)) as Flat;
  }

  private async encodeItems(): Promise<void> {
    const { gpu, dataset, laser, texts, config, progress } = this.options;
    const itemTexts = dataset.items.map((_, i) => texts.item(i));
    this.state.items = await encodeAll(gpu, laser, itemTexts, config.tokenBudget, progress, "encoding items");
    this.state.itemEncoder = await this.snapshot();
    gpu.write(this.items, this.state.items);
  }

  private async epoch(): Promise<void> {
    const { config, dataset, laser, progress } = this.options;
    const { position } = this.state;
    const { phase, epoch } = position;
    // A checkpoint at the very start of an epoch of phase 1 is taken before the encoding.
    if (phase === 1 && position.updateInEpoch === 0) await this.encodeItems();
    const sequences = [...this.trained].map((user) => ({
      user,
      items: trainingSequence(dataset.sequences[user]),
    }));
    const examples = epochExamples(sequences, config.examples, { seed: config.seed, phase, epoch });
    const perUpdate = config.batchSize * config.accumulate;
    const updates = Math.ceil(examples.length / perUpdate);
    const most = phase === 1 ? config.phase1Epochs : config.phase2Epochs;
    progress.begin(`phase ${phase} epoch ${epoch + 1}/${most}`, updates, "updates", position.updateInEpoch);
    let sum = 0;
    let seen = 0;
    while (position.updateInEpoch < updates) {
      const from = position.updateInEpoch * perUpdate;
      const rows = examples.slice(from, from + perUpdate);
      const iic = await this.update(rows, updates * most);
      sum += iic * rows.length;
      seen += rows.length;
      progress.update(position.updateInEpoch, `loss ${(sum / seen).toFixed(4)}`);
      const atEnd = position.updateInEpoch === updates;
      const interrupted = this.options.signal?.aborted ?? false;
      if (interrupted || (!atEnd && position.updateInEpoch % config.checkpointSteps === 0))
        await this.checkpoint();
      if (interrupted) throw new Interrupted(`stopped after update ${position.update}`);
    }
    progress.end();
    const score = await this.validate();
    const better = position.bestScore === null || score.ndcg10 > position.bestScore;
    if (better) {
      const { items, itemEncoder } = this.state;
      this.state.best = { parameters: await this.snapshot(), itemEncoder: itemEncoder!, items: items! };
      Object.assign(position, { bestScore: score.ndcg10, bestPhase: phase, bestEpoch: epoch, sinceBest: 0 });
    } else position.sinceBest++;
    await this.log!.write({ update: position.update, phase, epoch, ...score, best: better });
    progress.line(
      `phase ${phase} epoch ${epoch + 1}: loss ${seen ? (sum / seen).toFixed(4) : "-"}, validation NDCG@10 ${score.ndcg10.toFixed(4)}, Recall@10 ${score.recall10.toFixed(4)}${better ? " (best)" : ""}`,
    );
    position.epoch++;
    position.updateInEpoch = 0;
    if (better) {
      const best = this.state.best!;
      const artifact = { user: best.parameters, item: best.itemEncoder, items: best.items };
      await saveArtifact(this.options.folder, laser.parameters, artifact, laser.backbone.hiddenSize);
    }
    await this.checkpoint();
    if (this.options.signal?.aborted) throw new Interrupted(`stopped after update ${position.update}`);
  }

  /** One update: forward, backward and Adam in one submit a batch. Returns the mean IIC loss. */
  private async update(examples: readonly Example[], phaseUpdates: number): Promise<number> {
    const { gpu, laser, texts, config } = this.options;
    const { position } = this.state;
    const started = performance.now();
    const rate = learningRate(config, position.updateInPhase, phaseUpdates);
    let iic = 0;
    let balance = 0;
    let tokens = 0;
    let squaredNorm = 0;
    const use = new Float64Array(config.experts);
    const batches = Math.ceil(examples.length / config.batchSize);
    for (let b = 0; b < batches; b++) {
      const rows = examples.slice(b * config.batchSize, (b + 1) * config.batchSize);
      const inputs = rows.map((row) => texts.user(row.history));
      const targets = Uint32Array.from(rows, (row) => row.target);
      for (const { ids } of inputs) tokens += ids.length + laser.addedTokens;
      const key = { seed: config.seed, step: position.update * config.accumulate + b };
      const weight = rows.length / examples.length;
      if (!this.warmed) {
        this.warmed = true;
        await gpu.warm((step) => {
          laser.trainStep(step, inputs, targets, this.items, this.loss, key, weight);
          const { updates } = this.adam;
          this.adam.update(step, rate);
          this.adam.updates = updates;
        });
        laser.parameters.clearGradients();
      }
      const step = gpu.step("train");
      const result = laser.trainStep(step, inputs, targets, this.items, this.loss, key, weight);
      const iicRead = step.readFloats(result.iicSum);
      const balanceRead = result.balance && step.readFloats(result.balance);
      const useRead = result.expertUse && step.read(result.expertUse);
      const normRead = b === batches - 1 ? step.readFloats(this.adam.update(step, rate)) : null;
      await step.submit();
      iic += (await iicRead)[0] / examples.length;
      if (balanceRead) balance += (await balanceRead)[0] * weight;
      if (useRead)
        (await useRead).forEach((count, i) => {
          use[i % config.experts] += count;
        });
      if (normRead) squaredNorm = (await normRead)[0];
    }
    if (!Number.isFinite(iic) || !Number.isFinite(squaredNorm)) {
      throw new UserError(
        `update ${position.update + 1}: the loss or its gradient is not finite; lower --learning-rate or set --clip`,
      );
    }
    position.update++;
    position.updateInEpoch++;
    position.updateInPhase++;
    position.adamUpdates = this.adam.updates;
    const positions = use.reduce((a, b) => a + b, 0);
    await this.log!.write({
      update: position.update,
      phase: position.phase,
      iic,
      lb: balance,
      loss: iic + config.lambda * balance,
      gradientNorm: Math.sqrt(squaredNorm),
      learningRate: rate,
      expertUse: positions ? [...use].map((count) => count / positions) : undefined,
      tokensPerSecond: Math.round(tokens / ((performance.now() - started) / 1000)),
      gpuBytes: gpu.buffers.bytes,
      hostBytes: process.memoryUsage.rss(),
    });
    return iic;
  }

  /** NDCG@10 and Recall@10 of the validation items under the current E. */
  private async validate(): Promise<{ ndcg10: number; recall10: number }> {
    const { gpu, dataset, laser, texts, config, progress } = this.options;
    const cases = [...this.users]
      .map((user) => validationCase(dataset.sequences[user]))
      .filter((row) => row !== null)
      .slice(0, config.validationUsers || undefined);
    const inputs = cases.map((row) => texts.user(row.history));
    const h = await encodeAll(gpu, laser, inputs, config.tokenBudget, progress, "validating");
    const targets = cases.map((row) => row.target);
    const { rank } = await rankUsers(gpu, h, this.items, targets);
    return { ndcg10: mean(rank, (r) => ndcg(r, 10)), recall10: mean(rank, (r) => recall(r, 10)) };
  }

  private checkpoint(): Promise<void> {
    const { folder, gpu, laser } = this.options;
    return saveCheckpoint(folder, gpu, laser.parameters, this.adam, this.state, laser.backbone.hiddenSize);
  }
}
