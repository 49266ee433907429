import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { product } from "./product.ts";
import { windowsOf } from "./windows.ts";

/** Windows of a weight are multiples of this many rows, so that the same window of a bias starts aligned too. */
const WINDOW_ROWS = 64;

/**
 * y = x W^T + b (+ residual). x [M, K] (leading axes are flattened), W [N, K] in any storage of weights, b [N] or null,
 * residual [M, N] (what bypasses the layer, added in the same kernel); returns y [M, N]. A weight larger than one
 * binding may cover is taken in windows of rows. `half`: a weight in f32 may be multiplied as f16, on tensor cores.
 */
export function linear(
  step: Step,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  options: { readonly residual?: Tensor | null; readonly half?: boolean } = {},
): Tensor {
  const [n, k] = weight.shape;
  const m = x.size / k;
  const y = step.tensor([m, n]);
  for (const { from, to, tensor } of windowsOf(weight, step.maxBindingBytes, WINDOW_ROWS)) {
    const shape = { m, n: to - from, k };
    const biasWindow = bias && (tensor === weight ? bias : bias.rows(from, to));
    const { residual, half } = options;
    product(step, x, tensor, y, shape, {
      half,
      transposeB: true,
      bias: biasWindow,
      residual,
      ldc: n,
      cOffset: from,
    });
  }
  return y;
}

/**
 * dx = dy W, the input gradient of `linear`. dy [M, N], W [N, K]; returns dx [M, K]. It is also the forward pass of a
 * layer stored [in, out] (ops/conv1d.ts), and then adds its bias [K] and residual [M, K]. `half` as in `linear`.
 */
export function linearInputGradient(
  step: Step,
  dy: Tensor,
  weight: Tensor,
  {
    half,
    ...added
  }: { readonly bias?: Tensor | null; readonly residual?: Tensor | null; readonly half?: boolean } = {},
): Tensor {
  const [n, k] = weight.shape;
  const m = dy.size / n;
  const dx = step.tensor([m, k]);
  for (const { from, to, tensor } of windowsOf(weight, step.maxBindingBytes, WINDOW_ROWS)) {
    const once = from === 0 ? added : { accumulate: true };
    product(step, dy, tensor, dx, { m, n: k, k: to - from }, { half, lda: n, aOffset: from, ...once });
  }
  return dx;
}

/** dW (+)= dy^T x, the weight gradient of `linear`. dy [M, N], x [M, K], dW [N, K]. `half`: multiplied as f16 may be. */
export function linearWeightGradient(
  step: Step,
  dy: Tensor,
  x: Tensor,
  dWeight: Tensor,
  accumulate: boolean,
  half = false,
): void {
  const [n, k] = dWeight.shape;
  const m = x.size / k;
  product(step, dy, x, dWeight, { m: n, n: k, k: m }, { transposeA: true, accumulate, half });
}
