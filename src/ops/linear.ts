import type { Step } from "../gpu/step.ts";
import { BYTES, type Tensor } from "../gpu/tensor.ts";
import { product } from "./product.ts";

/** The rows [from, to) of a weight that one binding can hold, in the order of the rows. */
function* windows(weight: Tensor, limit: number): Generator<[number, number, Tensor]> {
  const [rows, width] = weight.shape;
  if (weight.bytes <= limit) {
    yield [0, rows, weight];
    return;
  }
  const rowBytes = width * BYTES[weight.dtype];
  // Windows start on multiples of 256 bytes, the binding alignment that every adapter accepts.
  // At least 64 rows, so that the same window of a bias is aligned too.
  let unit = 64;
  while ((unit * rowBytes) % 256 !== 0) unit *= 2;
  const count = Math.floor(limit / (unit * rowBytes)) * unit;
  if (count === 0)
    throw new Error(`a row of [${weight.shape}] is larger than the binding limit of ${limit} bytes`);
  for (let from = 0; from < rows; from += count) {
    const to = Math.min(rows, from + count);
    yield [from, to, weight.rows(from, to)];
  }
}

/**
 * y = x W^T + b (+ residual). x [M, K] (leading axes are flattened), W [N, K] in f32 or f16, b [N] or null, residual
 * [M, N] (what bypasses the layer, added in the same kernel); returns y [M, N]. A weight larger than one binding may
 * cover is taken in windows of rows.
 */
export function linear(
  step: Step,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  options: { readonly residual?: Tensor | null } = {},
): Tensor {
  const [n, k] = weight.shape;
  const m = x.size / k;
  const y = step.tensor([m, n]);
  for (const [from, to, window] of windows(weight, step.maxBindingBytes)) {
    const shape = { m, n: to - from, k };
    const biasWindow = bias && (window === weight ? bias : bias.rows(from, to));
    const { residual } = options;
    product(step, x, window, y, shape, {
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
 * layer stored [in, out] (ops/conv1d.ts), and then adds its bias [K] and residual [M, K].
 */
export function linearInputGradient(
  step: Step,
  dy: Tensor,
  weight: Tensor,
  added: { readonly bias?: Tensor | null; readonly residual?: Tensor | null } = {},
): Tensor {
  const [n, k] = weight.shape;
  const m = dy.size / n;
  const dx = step.tensor([m, k]);
  for (const [from, to, window] of windows(weight, step.maxBindingBytes)) {
    const once = from === 0 ? added : { accumulate: true };
    product(step, dy, window, dx, { m, n: k, k: to - from }, { lda: n, aOffset: from, ...once });
  }
  return dx;
}

/** dW (+)= dy^T x, the weight gradient of `linear`. dy [M, N], x [M, K], dW [N, K]. */
export function linearWeightGradient(
  step: Step,
  dy: Tensor,
  x: Tensor,
  dWeight: Tensor,
  accumulate: boolean,
): void {
  const [n, k] = dWeight.shape;
  const m = x.size / k;
  product(step, dy, x, dWeight, { m: n, n: k, k: m }, { transposeA: true, accumulate });
}
