/**
 * GPT-2's "Conv1D": a linear layer whose weight is stored [in, out]. The same products as ops/linear.ts with forward
 * and backward exchanged, without a transposed copy of the weight.
 */
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { linear, linearInputGradient, linearWeightGradient } from "./linear.ts";

/**
 * y = x W + b (+ residual). x [M, K] (leading axes are flattened), W [K, N] in f32 or f16, b [N] or null, residual
 * [M, N]; returns y [M, N].
 */
export function conv1d(
  step: Step,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  options: { readonly residual?: Tensor | null } = {},
): Tensor {
  return linearInputGradient(step, x, weight, { bias, ...options });
}

/** dx = dy W^T, the input gradient of `conv1d`. dy [M, N], W [K, N]; returns dx [M, K]. */
export function conv1dInputGradient(step: Step, dy: Tensor, weight: Tensor): Tensor {
  return linear(step, dy, weight);
}

/** dW (+)= x^T dy, the weight gradient of `conv1d`. x [M, K], dy [M, N], dW [K, N]. */
export function conv1dWeightGradient(
  step: Step,
  dy: Tensor,
  x: Tensor,
  dWeight: Tensor,
  accumulate: boolean,
): void {
  linearWeightGradient(step, x, dy, dWeight, accumulate);
}
