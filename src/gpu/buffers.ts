import { GpuOutOfMemoryError } from "./errors.ts";
import { bytesOf, type DType, Tensor } from "./tensor.ts";

/**
 * Rounds a byte count up to one of four sizes per power of two, so that tensors whose lengths vary from batch to
 * batch find the same buffers again (and with them, the cached bind groups). Wastes at most a fifth.
 */
export function sizeClass(bytes: number): number {
  if (bytes <= 256) return 256;
  const power = 2 ** Math.floor(Math.log2(bytes - 1));
  const quarter = power / 4;
  return Math.ceil(bytes / quarter) * quarter;
}

/**
 * A tensor may take a buffer of up to this many times its class, so that batches shorter than the longest need few
 * buffers of their own: over batches of 4 x 150 to 450 tokens of Llama 2 the pool grows to 2.1 GiB, not to 7.1.
 */
const LARGEST_FIT = 4;

/** Takes the smallest buffer that serves a tensor of this class from lists by size, or nothing. */
export function bestFit<T>(lists: ReadonlyMap<number, T[]>, size: number): T | undefined {
  const exact = lists.get(size)?.pop();
  if (exact) return exact;
  let best = Number.POSITIVE_INFINITY;
  for (const [bytes, list] of lists) {
    if (list.length && bytes > size && bytes <= LARGEST_FIT * size && bytes < best) best = bytes;
  }
  return lists.get(best)?.pop();
}

interface Pooled {
  readonly buffer: GPUBuffer;
  readonly id: number;
  readonly bytes: number;
}

/**
 * Every GPU buffer of a process: persistent ones, and the pool from which steps take their tensors. Nothing here
 * relies on garbage collection: what is created is either in use, in the pool, or destroyed.
 */
export class Buffers {
  private readonly free = new Map<number, Pooled[]>();
  private readonly persistent = new Map<number, Pooled>();
  private nextId = 1;
  /** Bytes of persistent tensors (weights, parameters, state). */
  persistentBytes = 0;
  /** Bytes of the step pool, in use or free. */
  pooledBytes = 0;
  /** The most bytes that were allocated at once. */
  peakBytes = 0;

  constructor(
    private readonly device: GPUDevice,
    /** Called with the id of a destroyed buffer, so that caches can drop it. */
    private readonly onDestroy: (id: number) => void,
  ) {}

  /** Bytes of GPU memory held by this process's tensors. */
  get bytes(): number {
    return this.persistentBytes + this.pooledBytes;
  }

  /** Bytes of the largest buffer: the adapter's limit, in whole vectors of 16 bytes. */
  private get largest(): number {
    return Math.floor(this.device.limits.maxBufferSize / 16) * 16;
  }

  /** Throws GpuOutOfMemoryError for a tensor that no single buffer of this adapter can hold. */
  assertFits(shape: readonly number[], bytes: number): void {
    if (bytes <= this.largest) return;
    throw new GpuOutOfMemoryError(
      `a tensor [${shape}] needs ${bytes} bytes, the adapter's buffers hold ${this.largest}`,
    );
  }

  private create(bytes: number, label: string): Pooled {
    const buffer = this.device.createBuffer({
      label,
      size: bytes,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    return { buffer, id: this.nextId++, bytes };
  }

  /**
   * A persistent tensor, alive until `release`. Its memory starts zeroed (WebGPU's guarantee). Throws
   * GpuOutOfMemoryError when no buffer can be that large.
   */
  allocate(shape: readonly number[], dtype: DType): Tensor {
    const bytes = Math.max(16, Math.ceil(bytesOf(shape, dtype) / 16) * 16);
    this.assertFits(shape, bytes);
    const pooled = this.create(bytes, `parameter [${shape}]`);
    this.persistent.set(pooled.id, pooled);
    this.persistentBytes += bytes;
    this.peakBytes = Math.max(this.peakBytes, this.bytes);
    return new Tensor(pooled.buffer, 0, shape, dtype, pooled.id);
  }

  /** Destroys the buffer of a persistent tensor. Throws for a tensor that is not persistent. */
  release(tensor: Tensor): void {
    const pooled = this.persistent.get(tensor.bufferId);
    if (!pooled)
      throw new Error(`release of a tensor [${tensor.shape}] that is not persistent, or was released before`);
    this.persistent.delete(pooled.id);
    this.persistentBytes -= pooled.bytes;
    pooled.buffer.destroy();
    this.onDestroy(pooled.id);
  }

  /** Whether a buffer belongs to a persistent tensor (and not to the step pool). */
  isPersistent(id: number): boolean {
    return this.persistent.has(id);
  }

  /** The size of pool buffer that serves `bytes`. */
  classOf(bytes: number): number {
    return Math.min(sizeClass(bytes), this.largest);
  }

  /** Takes a buffer of the class of `bytes` from the pool, or makes one. */
  take(bytes: number): Pooled {
    const size = this.classOf(bytes);
    const found = bestFit(this.free, size);
    if (found) return found;
    this.pooledBytes += size;
    this.peakBytes = Math.max(this.peakBytes, this.bytes);
    return this.create(size, `arena ${size}`);
  }

  /** The sizes of the pool's free buffers, largest first. */
  get freeSizes(): number[] {
    return [...this.free].flatMap(([bytes, list]) => list.map(() => bytes)).sort((a, b) => b - a);
  }

  /** Makes free buffers until the pool has these: the steps that need them then make none. */
  reserve(sizes: readonly number[]): void {
    const taken = sizes.map((bytes) => this.take(bytes));
    this.giveBack(taken);
  }

  /** Puts buffers back, in an order that makes an identical next step take them identically. */
  giveBack(buffers: readonly Pooled[]): void {
    for (let i = buffers.length - 1; i >= 0; i--) {
      const pooled = buffers[i];
      const list = this.free.get(pooled.bytes);
      if (list) list.push(pooled);
      else this.free.set(pooled.bytes, [pooled]);
    }
  }

  /** Destroys the pool's free buffers: between phases whose shapes differ. */
  trim(): void {
    for (const list of this.free.values()) {
      for (const pooled of list) {
        pooled.buffer.destroy();
        this.pooledBytes -= pooled.bytes;
        this.onDestroy(pooled.id);
      }
    }
    this.free.clear();
  }
}

export type { Pooled };
