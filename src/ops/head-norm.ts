import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** Query heads and key heads side by side at the start of every row. */
export interface HeadNormShape {
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headSize: number;
}

/** Lanes that share a head: its elements are few. */
const LANES = 8;

function dispatchOf(x: Tensor, { heads, keyValueHeads, headSize }: HeadNormShape, eps: number) {
  const [rows, stride] = x.shape;
  const all = heads + keyValueHeads;
  if (all * headSize > stride) {
    throw new Error(`head norm of ${all} heads of ${headSize} in rows of ${stride}`);
  }
  return {
    params: { rows, heads: all, queries: heads, head_size: headSize, stride, eps, lanes: LANES },
    workgroups: gridOf(Math.ceil((rows * all * LANES) / 64)),
  };
}

/**
 * RMS normalisation of every query and key head by itself (Qwen3): y = x / sqrt(mean(x^2) + eps) * w over a head's h
 * elements. x [T, at least (H + G) h] begins with query | key; w [2 h] holds the weights of the query heads, then of
 * the key heads. Returns [T, (H + G) h].
 */
export function headNorm(step: Step, x: Tensor, w: Tensor, shape: HeadNormShape, eps: number): Tensor {
  const { params, workgroups } = dispatchOf(x, shape, eps);
  const y = step.tensor([params.rows, params.heads * params.head_size]);
  step.run(kernels.head_norm, {
    bindings: { x, w, y },
    params,
    workgroups,
    cost: { flops: 4 * y.size, bytes: 8 * y.size },
  });
  return y;
}

/** The input gradient of `headNorm`: dy [T, (H + G) h]; overwrites the query and key columns of dx (x's shape). */
export function headNormGradient(
  step: Step,
  dy: Tensor,
  x: Tensor,
  w: Tensor,
  shape: HeadNormShape,
  eps: number,
  dx: Tensor,
): void {
  const { params, workgroups } = dispatchOf(x, shape, eps);
  step.run(kernels.head_norm_gradient, {
    bindings: { dy, x, w, dx },
    params,
    workgroups,
    cost: { flops: 10 * dy.size, bytes: 12 * dy.size },
  });
}
