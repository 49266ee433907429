/**
 * GPT-2's "Conv1D": a linear layer whose weight is stored [in, out]. The same products as ops/linear.ts, without a
 * transposed copy of the weight. A weight must fit one binding.
 */
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { linear, linearWeightGradient } from "./linear.ts";
import { product } from "./product.ts";

/** y = x W + b. x [M, K] (leading axes are flattened), W [K, N] in f32 or f16, b [N] or null; returns y [M, N]. */
export function conv1d(step: Step, x: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
  const [k, n] = weight.shape;
  const m = x.size / k;
  const y = step.tensor([m, n]);
  product(step, x, weight, y, { m, n, k }, { bias });
  return y;
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
