/** Where a recommender's training stands, so that it goes on to the same bits after any update. */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Adam } from "../autograd/adam.ts";
import type { Parameters } from "../autograd/parameters.ts";
import { openSafetensors, writeSafetensors } from "../files/safetensors.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Flat } from "./checkpoint.ts";

export const PRETRAIN_STATE = "pretrain.safetensors";

/** Epochs and batches count from 0. The batches of an epoch are a function of (seed, epoch). */
export interface PretrainPosition {
  epoch: number;
  /** Batches of this epoch that are done, and the sum of their losses over how many targets. */
  batch: number;
  lossSum: number;
  targets: number;
  /** Updates done: the dropout generator's step, and Adam's. */
  updates: number;
  /** Updates that were done at the last validation. */
  validated: number;
  /** Validations since the best one. */
  sinceBest: number;
  /** Validation NDCG@10 of the best epoch, -1 before the first validation. */
  bestScore: number;
  bestEpoch: number;
}

const START: PretrainPosition = {
  epoch: 0,
  batch: 0,
  lossSum: 0,
  targets: 0,
  updates: 0,
  validated: 0,
  sinceBest: 0,
  bestScore: -1,
  bestEpoch: 0,
};

/** What a training changes: its position, the parameters with their optimiser, and the best epoch's parameters. */
export class PretrainState {
  position: PretrainPosition = { ...START };
  best: Flat | null = null;

  constructor(
    private readonly gpu: Gpu,
    private readonly parameters: Parameters,
    private readonly adam: Adam,
    private readonly folder: string,
  ) {}

  private get path(): string {
    return join(this.folder, PRETRAIN_STATE);
  }

  /** Tensors on the GPU by their names in the file. */
  private get live(): Readonly<Record<string, Tensor>> {
    return { values: this.parameters.values, "adam.m": this.adam.m, "adam.v": this.adam.v };
  }

  /** Takes up what was saved, if anything was. Throws UserError for a file that does not fit. */
  async restore(): Promise<void> {
    if (!existsSync(this.path)) return;
    await using file = await openSafetensors(this.path);
    const size = this.parameters.flatSize;
    const stored = JSON.parse(file.metadata.get("position") ?? "null") as PretrainPosition | null;
    const fits = ["values", "adam.m", "adam.v"].every((name) => file.tensors.get(name)?.shape[0] === size);
    if (!fits || !stored || Object.keys(START).some((name) => !Object.hasOwn(stored, name))) {
      throw new UserError(`${this.path}: not the state of this training; remove it to start anew`);
    }
    for (const [name, tensor] of Object.entries(this.live)) {
      this.gpu.write(tensor, (await file.float32(name)) as Flat);
    }
    this.position = stored;
    this.adam.updates = stored.updates;
    this.best = file.tensors.has("best") ? ((await file.float32("best")) as Flat) : null;
  }

  async save(): Promise<void> {
    const step = this.gpu.step("pretraining state");
    const reads = Object.entries(this.live).map(([name, tensor]) => ({
      name,
      data: step.readFloats(tensor),
    }));
    await step.submit();
    const tensors = await Promise.all(
      reads.map(async ({ name, data }) => ({ name, data: (await data) as Flat })),
    );
    if (this.best) tensors.push({ name: "best", data: this.best });
    await writeSafetensors(
      this.path,
      tensors.map(({ name, data }) => ({ name, dtype: "F32", shape: [data.length], data })),
      { position: JSON.stringify(this.position) },
    );
  }

  /** The training has ended: its result is saved, the state is not needed any more. */
  async remove(): Promise<void> {
    await rm(this.path, { force: true });
  }
}
