import { ABSOLUTE_FLOOR } from "../tolerances.ts";

/** How far computed values lie from a reference. */
export interface TensorError {
  /** max |a - b|. NaN when a computed value is not a number. */
  readonly absolute: number;
  /** ||a - b|| / ||b|| over the tensor; of a reference that is zero in theory, the absolute error per element. */
  readonly relative: number;
  /** What `relative` was held against. */
  readonly tolerance: number;
  readonly ok: boolean;
}

/**
 * Compares a tensor with its reference. The error is measured against the norm of the reference, so that one tensor
 * has one scale. A reference whose root mean square is below ABSOLUTE_FLOOR is zero in theory (the gradient of an
 * attention key's bias): then only the size of the error itself is held against that floor.
 */
export function tensorError(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
): TensorError {
  const n = Math.max(1, expected.length);
  let absolute = 0;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    const d = Math.abs(actual[i] - expected[i]);
    // Once NaN it stays NaN: every comparison with it is false.
    if (d > absolute || Number.isNaN(d)) absolute = d;
    difference += d * d;
    norm += expected[i] * expected[i];
  }
  const perElement = Math.sqrt(difference / n);
  if (Math.sqrt(norm / n) < ABSOLUTE_FLOOR) {
    return { absolute, relative: perElement, tolerance: ABSOLUTE_FLOOR, ok: perElement <= ABSOLUTE_FLOOR };
  }
  const relative = Math.sqrt(difference / norm);
  return { absolute, relative, tolerance, ok: relative <= tolerance };
}

/** Compares whole numbers and ranks: every value must be the same. */
export function exactError(actual: ArrayLike<number>, expected: ArrayLike<number>): TensorError {
  const error = tensorError(actual, expected, 0);
  return { ...error, tolerance: 0, ok: error.absolute === 0 };
}
