import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";

/**
 * Variable-length sequences packed end to end, without padding: sequence s covers the rows
 * cuSeqlens[s] .. cuSeqlens[s + 1] - 1 of every tensor of the batch.
 */
export interface Packed {
  readonly lengths: readonly number[];
  /** Number of rows: the sum of the lengths. */
  readonly total: number;
  /** The longest sequence. */
  readonly longest: number;
  /** u32 [S + 1]: the first row of each sequence, and the total. */
  readonly cuSeqlens: Tensor;
  /** u32 [total]: the sequence of each row. */
  readonly sequenceOf: Tensor;
  /** u32 [total]: the position of each row in its sequence, from `start` on. */
  readonly positions: Tensor;
}

/** Uploads the index tensors of packed sequences. `start` is the position of every sequence's first row. */
export function packed(step: Step, lengths: readonly number[], start = 0): Packed {
  let total = 0;
  let longest = 0;
  const cuSeqlens = new Uint32Array(lengths.length + 1);
  lengths.forEach((length, s) => {
    total += length;
    longest = Math.max(longest, length);
    cuSeqlens[s + 1] = total;
  });
  const sequenceOf = new Uint32Array(total);
  const positions = new Uint32Array(total);
  lengths.forEach((length, s) => {
    for (let i = 0; i < length; i++) {
      sequenceOf[cuSeqlens[s] + i] = s;
      positions[cuSeqlens[s] + i] = start + i;
    }
  });
  return {
    lengths,
    total,
    longest,
    cuSeqlens: step.upload(cuSeqlens),
    sequenceOf: step.upload(sequenceOf),
    positions: step.upload(positions),
  };
}
