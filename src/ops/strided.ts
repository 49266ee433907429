import type { Tensor } from "../gpu/tensor.ts";

/**
 * Columns of a row-major f32 tensor: row t starts at element offset + t x stride. So queries, keys and values may lie
 * side by side in one fused tensor [T, (H + 2G) h].
 */
export interface Strided {
  readonly tensor: Tensor;
  /** First element of row 0. */
  readonly offset: number;
  /** Elements from one row to the next. */
  readonly stride: number;
}

/** All columns of a tensor [rows, columns]. */
export function whole(tensor: Tensor): Strided {
  return { tensor, offset: 0, stride: tensor.shape.at(-1)! };
}
