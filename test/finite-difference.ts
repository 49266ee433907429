import { assertClose } from "./close.ts";
import { FINITE_DIFFERENCE_F64 } from "./tolerances.ts";

/**
 * Fails unless `gradient` is the gradient of `loss` at `x`, by central differences in float64. `loss` must be plain
 * float64 TypeScript: this is how the references that kernels are compared with are themselves checked.
 */
export function assertGradient(
  name: string,
  loss: (x: Float64Array) => number,
  x: ArrayLike<number>,
  gradient: ArrayLike<number>,
): void {
  const at = Float64Array.from(x);
  const differences = at.map((value, i) => {
    const h = 1e-5 * Math.max(1, Math.abs(value));
    at[i] = value + h;
    const above = loss(at);
    at[i] = value - h;
    const below = loss(at);
    at[i] = value;
    return (above - below) / (2 * h);
  });
  assertClose(`${name} against finite differences`, gradient, differences, FINITE_DIFFERENCE_F64);
}

/** sum_i a[i] * b[i]: turns an output into the scalar whose gradient is checked. */
export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
