import { freemem } from "node:os";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import { bytesOf, isQuantized, type Tensor } from "../gpu/tensor.ts";
import { openDecoderCheckpoint } from "./checkpoint.ts";
import { readDecoderConfig } from "./config.ts";
import { Decoder } from "./decoder.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import {
  type DecoderWeights,
  everyWeight,
  mapWeights,
  type WeightSource,
  weightSources,
} from "./decoder-weights.ts";
import { type WeightJob, WeightLoader } from "./weight-loader.ts";
import { WEIGHT_STORAGES, type WeightStorage } from "./weight-stream.ts";

export interface LoadOptions {
  /** Storage of the linear weights; tables of embeddings are never below f16, norms and biases always f32. */
  readonly weights: WeightStorage;
  /** Called with the bytes read so far of the checkpoint's total. */
  readonly onProgress?: (bytes: number, total: number) => void;
}

/** How a weight lies in GPU memory. */
export interface Placement {
  readonly storage: WeightStorage;
  readonly shape: readonly number[];
  /** With its axes exchanged from how it lies in the checkpoint. */
  readonly transposed: boolean;
}

/**
 * The storage asked for is that of linear layers. Tables stay f16: a look-up reads a few rows, so that a quantised table
 * would save memory alone, little of a large model's, and its errors enter every layer (docs/kernels/product.md has
 * figures).
 */
export function placementOf(
  { shape, role }: WeightSource,
  config: DecoderConfig,
  asked: WeightStorage,
): Placement {
  if (role === "vector") return { storage: "f32", shape, transposed: false };
  if (!isQuantized(asked)) return { storage: asked, shape, transposed: false };
  if (role === "table") return { storage: "f16", shape, transposed: false };
  const transposed = config.linear === "in-out";
  return { storage: asked, shape: transposed ? shape.toReversed() : shape, transposed };
}

/** A decoder as its weights lie in GPU memory: quantised ones are all [out, in]. */
function placedConfig(config: DecoderConfig, asked: WeightStorage): DecoderConfig {
  return isQuantized(asked) ? { ...config, linear: "out-in" } : config;
}

/** A decoder's weights without their values, for an account of memory (train/memory.ts). */
export async function unloadedDecoder(
  gpu: Gpu,
  config: DecoderConfig,
  storage: WeightStorage,
): Promise<{ readonly config: DecoderConfig; readonly weights: DecoderWeights<Tensor> }> {
  const weights = await mapWeights(weightSources(config), (source) => {
    const placement = placementOf(source, config, storage);
    return gpu.parameter(placement.shape, placement.storage);
  });
  return { config: placedConfig(config, storage), weights };
}

/** Bytes of every frozen weight in GPU memory, largest first. */
function weightBytes(config: DecoderConfig, asked: WeightStorage): number[] {
  return everyWeight(weightSources(config))
    .map((source) => placementOf(source, config, asked))
    .map(({ shape, storage }) => bytesOf(shape, storage))
    .sort((a, b) => b - a);
}

/** Bytes of GPU memory that the frozen weights take. */
export function decoderBytes(config: DecoderConfig, storage: WeightStorage): number {
  return weightBytes(config, storage).reduce((sum, bytes) => sum + bytes, 0);
}

/** Refuses a model that cannot fit before anything is read: a tensor past the largest buffer, or the host's memory. */
function checkFits(gpu: Gpu, directory: string, config: DecoderConfig, storage: WeightStorage): void {
  const most = gpu.device.limits.maxBufferSize;
  const [widest] = weightBytes(config, storage);
  if (widest > most) {
    throw new UserError(
      `${directory}: its largest tensor needs ${gib(widest)} in ${storage}, this adapter's buffers hold ${gib(most)}; use ${smaller(storage)}a smaller backbone`,
    );
  }
  const needed = decoderBytes(config, storage);
  if (gpu.software && needed > freemem()) {
    throw new UserError(
      `${directory}: its weights need ${gib(needed)} in ${storage}, this machine has ${gib(freemem())} free and the adapter (${gpu.adapterName}) computes in main memory; use ${smaller(storage)}a smaller backbone or a GPU`,
    );
  }
}

/** The advice to take the next smaller storage, where there is one. */
function smaller(storage: WeightStorage): string {
  const next = WEIGHT_STORAGES[WEIGHT_STORAGES.indexOf(storage) + 1];
  return next ? `--weights ${next} or ` : "";
}

/** Bytes as GiB, for messages. */
function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}

/**
 * Loads a Hugging Face model directory into GPU memory. Tensors stream in bounded pieces: host memory stays small
 * whatever the checkpoint's size. Throws UserError naming the file and tensor at fault; nothing stays allocated then.
 */
export async function loadDecoder(gpu: Gpu, directory: string, options: LoadOptions): Promise<Decoder> {
  const config = await readDecoderConfig(directory);
  checkFits(gpu, directory, config, options.weights);
  const { checkpoint, sources } = await openDecoderCheckpoint(directory, config);
  await using _closed = checkpoint;
  const { onProgress, weights: asked } = options;
  const total = checkpoint.names.reduce((sum, name) => sum + checkpoint.info(name).bytes, 0);
  let done = 0;
  const loader = new WeightLoader(gpu, checkpoint, (bytes) => {
    done += bytes;
    onProgress?.(done, total);
  });
  const tensors: Tensor[] = [];
  const jobs: WeightJob[] = [];
  try {
    const weights = await mapWeights(sources, (source) => {
      const placement = placementOf(source, config, asked);
      const tensor = gpu.parameter(placement.shape, placement.storage);
      tensors.push(tensor);
      jobs.push(...weightJobs(source, placement, tensor));
      return tensor;
    });
    await loader.load(jobs);
    return new Decoder(placedConfig(config, asked), weights);
  } catch (error) {
    for (const tensor of tensors) gpu.release(tensor);
    throw error;
  }
}

/** The checkpoint's tensors that make one weight, stacked along its first axis. */
export function weightJobs(
  { parts }: WeightSource,
  { storage, transposed }: Placement,
  target: Tensor,
): WeightJob[] {
  let next = 0;
  return parts.map(({ name, shape }) => {
    const byte = next;
    next += bytesOf(transposed ? shape.toReversed() : shape, storage);
    return { name, shape, storage, transposed, target, byte };
  });
}
