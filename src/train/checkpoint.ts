/**
 * What a run needs to go on exactly where it stopped, in one safetensors file written atomically: parameters,
 * optimiser state, E and the parameters that produced it, the best epoch so far, and the position. The order of
 * examples, dropout masks and subsets are functions of (seed, position), so the position is the generators' state.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Adam } from "../autograd/adam.ts";
import type { Parameters } from "../autograd/parameters.ts";
import { openSafetensors, type TensorToWrite, writeSafetensors } from "../files/safetensors.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";

/** Where a run stands. Epochs and batches count from 0. */
export interface Position {
  phase: 1 | 2;
  epoch: number;
  /** Updates of this epoch that are done. */
  updateInEpoch: number;
  /** Updates of this phase that are done (the learning-rate schedule's clock). */
  updateInPhase: number;
  /** Updates of the run that are done: the dropout generator's step, and the step of metrics.jsonl. */
  update: number;
  /** Adam's own count, which starts anew in phase 2. */
  adamUpdates: number;
  /** Epochs since the best of this phase. */
  sinceBest: number;
  /** Validation NDCG@10 of the best epoch, or null before the first. */
  bestScore: number | null;
  bestPhase: number;
  bestEpoch: number;
  /** True when the run has finished. */
  finished: boolean;
}

/** Host copies of parameters, flat as in Parameters. */
export type Flat = Float32Array<ArrayBuffer>;

/** Everything of a run that changes. */
export interface RunState {
  position: Position;
  /** E [I, d], rows normalised; null before the first epoch. */
  items: Flat | null;
  /** The parameters that produced `items`. */
  itemEncoder: Flat | null;
  /** The best epoch: the user encoder, the item encoder and its E. */
  best: { parameters: Flat; itemEncoder: Flat; items: Flat } | null;
}

export const CHECKPOINT = "checkpoint.safetensors";
export const MODEL = "model.safetensors";

function named(parameters: Parameters, flat: Flat, prefix: string): TensorToWrite[] {
  return [...parameters.split(flat)].map(([name, { shape, data }]) => ({
    name: `${prefix}${name}`,
    dtype: "F32",
    shape,
    data,
  }));
}

/** Writes the checkpoint of a run. `width` is d. */
export async function saveCheckpoint(
  folder: string,
  gpu: Gpu,
  parameters: Parameters,
  adam: Adam,
  state: RunState,
  width: number,
): Promise<void> {
  const step = gpu.step("checkpoint");
  const reads = [parameters.values, adam.m, adam.v].map((tensor) => step.readFloats(tensor));
  await step.submit();
  const [values, m, v] = (await Promise.all(reads)) as Flat[];
  const tensors: TensorToWrite[] = [
    ...named(parameters, values, "p."),
    ...named(parameters, m, "adam.m."),
    ...named(parameters, v, "adam.v."),
  ];
  const embedding = (name: string, data: Flat): TensorToWrite => ({
    name,
    dtype: "F32",
    shape: [data.length / width, width],
    data,
  });
  if (state.items) tensors.push(embedding("E", state.items));
  if (state.itemEncoder) tensors.push(...named(parameters, state.itemEncoder, "item_encoder."));
  if (state.best) {
    tensors.push(
      ...named(parameters, state.best.parameters, "best.p."),
      ...named(parameters, state.best.itemEncoder, "best.item_encoder."),
      embedding("best.E", state.best.items),
    );
  }
  await writeSafetensors(join(folder, CHECKPOINT), tensors, { position: JSON.stringify(state.position) });
}

/** Reads tensors under a prefix of a file into a flat copy of the parameters. */
async function readFlat(
  file: Awaited<ReturnType<typeof openSafetensors>>,
  parameters: Parameters,
  prefix: string,
): Promise<Flat> {
  const found = new Map<string, { shape: readonly number[]; data: Float32Array }>();
  for (const [name, { shape }] of file.tensors) {
    if (name.startsWith(prefix))
      found.set(name.slice(prefix.length), { shape, data: await file.float32(name) });
  }
  return parameters.join((name) => found.get(name), `${file.path} (${prefix}*)`);
}

function positionIn(file: Awaited<ReturnType<typeof openSafetensors>>): Position {
  const text = file.metadata.get("position");
  if (!text)
    throw new UserError(`${file.path}: metadata "position" is missing; this is not a checkpoint of a run`);
  return JSON.parse(text) as Position;
}

/**
 * Restores a run's checkpoint into the GPU buffers and returns its state, or null when there is none. Throws
 * UserError when the file does not fit this model.
 */
export async function loadCheckpoint(
  folder: string,
  gpu: Gpu,
  parameters: Parameters,
  adam: Adam,
): Promise<RunState | null> {
  const path = join(folder, CHECKPOINT);
  if (!existsSync(path)) return null;
  const file = await openSafetensors(path);
  try {
    const position = positionIn(file);
    gpu.write(parameters.values, await readFlat(file, parameters, "p."));
    gpu.write(adam.m, await readFlat(file, parameters, "adam.m."));
    gpu.write(adam.v, await readFlat(file, parameters, "adam.v."));
    adam.updates = position.adamUpdates;
    const optional = async (name: string) =>
      file.tensors.has(name) ? ((await file.float32(name)) as Flat) : null;
    const items = await optional("E");
    const itemEncoder = items ? await readFlat(file, parameters, "item_encoder.") : null;
    const bestItems = await optional("best.E");
    const best = bestItems && {
      parameters: await readFlat(file, parameters, "best.p."),
      itemEncoder: await readFlat(file, parameters, "best.item_encoder."),
      items: bestItems,
    };
    return { position, items, itemEncoder, best };
  } finally {
    await file.close();
  }
}

/** The two encoders of a run: the users', and the one that made E. The names are those of docs/dumps.md. */
export interface Encoders {
  readonly user: Flat;
  readonly item: Flat;
}

/** The result of a run: both encoders and E. */
export interface Artifact extends Encoders {
  /** E [I, d], rows normalised. */
  readonly items: Flat;
}

function encoderTensors(parameters: Parameters, { user, item }: Encoders): TensorToWrite[] {
  return [...named(parameters, user, "user."), ...named(parameters, item, "item.")];
}

/** Writes two encoders alone. */
export function saveEncoders(path: string, parameters: Parameters, encoders: Encoders): Promise<void> {
  return writeSafetensors(path, encoderTensors(parameters, encoders), {
    format: "laser-webgpu encoders, version 1",
  });
}

/** Reads two encoders. Throws UserError when the file does not fit the model. */
export async function loadEncoders(path: string, parameters: Parameters): Promise<Encoders> {
  await using file = await openSafetensors(path);
  return {
    user: await readFlat(file, parameters, "user."),
    item: await readFlat(file, parameters, "item."),
  };
}

/** Writes the run's result. */
export async function saveArtifact(
  folder: string,
  parameters: Parameters,
  artifact: Artifact,
  width: number,
): Promise<void> {
  const tensors: TensorToWrite[] = [
    ...encoderTensors(parameters, artifact),
    { name: "E", dtype: "F32", shape: [artifact.items.length / width, width], data: artifact.items },
  ];
  await writeSafetensors(join(folder, MODEL), tensors, { format: "laser-webgpu run, version 1" });
}

/** Reads a run's result. Throws UserError when the run has not finished or the file does not fit the model. */
export async function loadArtifact(folder: string, parameters: Parameters): Promise<Artifact> {
  const path = join(folder, MODEL);
  if (!existsSync(path)) {
    throw new UserError(
      `${path} is missing: the run has not finished its first epoch; train it, or resume it with --resume`,
    );
  }
  const encoders = await loadEncoders(path, parameters);
  await using file = await openSafetensors(path);
  return { ...encoders, items: (await file.float32("E")) as Flat };
}

/** Whether a run has been trained to its end. */
export async function isFinished(folder: string): Promise<boolean> {
  const path = join(folder, CHECKPOINT);
  if (!existsSync(path)) return false;
  await using file = await openSafetensors(path);
  return positionIn(file).finished;
}
