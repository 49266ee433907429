/**
 * A linear layer of the frozen model with the layer before it in the same kernels: norms and activations are made while
 * rows are packed for tensor cores (kernels/pack_rows.wgsl) and never lie in memory as f32. Elsewhere the two are separate
 * kernels (`fusedWeight` says which): f32 products read their operand as it is.
 */
import type { Step } from "../gpu/step.ts";
import type { SubgroupMatrix } from "../gpu/subgroup-matrix.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { RowSource } from "./pack-rows.ts";
import { chooseProduct } from "./product-choice.ts";
import { productOnMatrices } from "./product-matrix.ts";

/** A layer's weight, and whether the product takes it transposed: W [N, K] of `linear`, or [K, N]. */
export interface FusedWeight {
  readonly weight: Tensor;
  readonly transposed: boolean;
  readonly matrix: SubgroupMatrix;
}

/**
 * The weight for `fusedLinear`, or null where the product of this many rows does not run on tensor cores, or the weight
 * does not fit one binding.
 */
export function fusedWeight(
  step: Step,
  weight: Tensor,
  rows: number,
  transposed: boolean,
): FusedWeight | null {
  const [n, k] = transposed ? weight.shape : [weight.shape[1], weight.shape[0]];
  const traits = { m: rows, n, k, transposeA: false, groupsOfFour: true, stored: weight.dtype };
  const choice = chooseProduct(traits, step);
  if (choice.kernel !== "matrix" || weight.bytes > step.maxBindingBytes) return null;
  return { weight, transposed, matrix: choice.matrix };
}

/** x W^T, or x W (+ bias [N]) (+ residual [rows, N]), of the rows that `source` makes: [rows, N]. */
export function fusedLinear(
  step: Step,
  source: RowSource,
  rows: number,
  { weight, transposed, matrix }: FusedWeight,
  { bias = null, residual = null }: { readonly bias?: Tensor | null; readonly residual?: Tensor | null } = {},
): Tensor {
  const [n, k] = transposed ? weight.shape : [weight.shape[1], weight.shape[0]];
  const c = step.tensor([rows, n]);
  const layout = { ldb: weight.shape[1], ldc: n, cOffset: 0, transposeB: transposed };
  const epilogue = { bias, residual, accumulate: false };
  productOnMatrices(step, source, weight, c, { m: rows, n, k }, layout, matrix, epilogue);
  return c;
}
