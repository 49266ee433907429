/** Element types. `f16` is packed two to a u32 and read with unpack2x16float, which is core WGSL. */
export type DType = "f32" | "u32" | "i32" | "f16";

/** Bytes of one element. */
export const BYTES: Readonly<Record<DType, number>> = { f32: 4, u32: 4, i32: 4, f16: 2 };

/** Number of elements of a shape; the empty shape is a scalar. */
export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const extent of shape) size *= extent;
  return size;
}

/**
 * A row-major array in GPU memory: a range of a buffer with a shape. It owns nothing: persistent tensors belong to
 * whoever called Gpu.parameter, the rest to their Step's arena.
 */
export class Tensor {
  constructor(
    readonly buffer: GPUBuffer,
    /** First byte inside the buffer. */
    readonly offset: number,
    readonly shape: readonly number[],
    readonly dtype: DType,
    /** Identifies the buffer in bind-group caches. */
    readonly bufferId: number,
  ) {}

  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** Bytes of the elements, rounded up to whole u32 words. */
  get bytes(): number {
    return Math.ceil((this.size * BYTES[this.dtype]) / 4) * 4;
  }

  /** The same elements under another shape. Throws when the counts differ. */
  reshape(shape: readonly number[]): Tensor {
    if (sizeOf(shape) !== this.size) throw new Error(`cannot reshape [${this.shape}] to [${shape}]`);
    return new Tensor(this.buffer, this.offset, shape, this.dtype, this.bufferId);
  }

  /**
   * Rows [from, to) along the first axis, without a copy. The first row must start on a multiple of 256 bytes (the
   * alignment every adapter accepts for a binding): throws otherwise.
   */
  rows(from: number, to: number): Tensor {
    const [rows, ...rest] = this.shape;
    if (from < 0 || to > rows || from > to)
      throw new Error(`rows ${from}..${to} of a tensor with ${rows} rows`);
    const start = this.offset + from * sizeOf(rest) * BYTES[this.dtype];
    if (start % 256 !== 0) throw new Error(`rows from ${from} start at byte ${start}, not a multiple of 256`);
    return new Tensor(this.buffer, start, [to - from, ...rest], this.dtype, this.bufferId);
  }
}
