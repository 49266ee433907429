/**
 * Element types. `f16` is packed two to a u32 (kernels/weights/f16.wgsl); `int8` and `int4` are codes with a scale for
 * every GROUP columns of a row (kernels/weights/quantized.wgsl).
 */
export type DType = "f32" | "u32" | "i32" | "f16" | QuantizedType;
export type QuantizedType = "int8" | "int4";

/** Bits of one element, scales apart. */
export const BITS: Readonly<Record<DType, number>> = { f32: 32, u32: 32, i32: 32, f16: 16, int8: 8, int4: 4 };

/** Neighbouring columns of a quantised row that share a scale. */
export const GROUP = 64;

export function isQuantized(dtype: DType): dtype is QuantizedType {
  return dtype === "int8" || dtype === "int4";
}

/** Bytes from one row of `width` elements to the next. Rows of quantised elements are whole u32 words. */
export function rowBytes(width: number, dtype: DType): number {
  if (!isQuantized(dtype)) return (width * BITS[dtype]) / 8;
  return 4 * (Math.ceil((width * BITS[dtype]) / 32) + Math.ceil(width / (2 * GROUP)));
}

/** Bytes of a row-major array whose last axis are its rows. */
export function bytesOf(shape: readonly number[], dtype: DType): number {
  return shape.length === 0
    ? BITS[dtype] / 8
    : sizeOf(shape.slice(0, -1)) * rowBytes(shape[shape.length - 1], dtype);
}

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
    return Math.ceil(bytesOf(this.shape, this.dtype) / 4) * 4;
  }

  /** Bytes from one index of the first axis to the next. */
  get stride(): number {
    return bytesOf(this.shape.slice(1), this.dtype);
  }

  /** The same elements under another shape. Throws when the counts differ, or the rows of quantised elements. */
  reshape(shape: readonly number[]): Tensor {
    if (sizeOf(shape) !== this.size || (isQuantized(this.dtype) && shape.at(-1) !== this.shape.at(-1)))
      throw new Error(`cannot reshape [${this.shape}] of ${this.dtype} to [${shape}]`);
    return new Tensor(this.buffer, this.offset, shape, this.dtype, this.bufferId);
  }

  /**
   * Rows [from, to) along the first axis, without a copy. The first row must start on a multiple of 256 bytes (the
   * alignment every adapter accepts for a binding): throws otherwise.
   */
  rows(from: number, to: number): Tensor {
    const [rows, ...rest] = this.shape;
    if (isQuantized(this.dtype) && rest.length === 0)
      throw new Error(`elements of one quantised row [${rows}] cannot be cut`);
    if (from < 0 || to > rows || from > to)
      throw new Error(`rows ${from}..${to} of a tensor with ${rows} rows`);
    const start = this.offset + from * this.stride;
    if (start % 256 !== 0) throw new Error(`rows from ${from} start at byte ${start}, not a multiple of 256`);
    return new Tensor(this.buffer, start, [to - from, ...rest], this.dtype, this.bufferId);
  }
}
