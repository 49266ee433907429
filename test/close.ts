import * as assert from "uvu/assert";
import { ABSOLUTE_FLOOR } from "./tolerances.ts";

/** ||a - b|| / ||b||, with the absolute floor per element for references that are zero in theory. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} values, expected ${expected.length}`);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    const d = actual[i] - expected[i];
    difference += d * d;
    norm += expected[i] * expected[i];
  }
  return Math.sqrt(difference) / Math.max(Math.sqrt(norm), ABSOLUTE_FLOOR * Math.sqrt(expected.length || 1));
}

/** Fails unless the relative error of the whole tensor is within the tolerance (a NaN fails). */
export function assertClose(
  name: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
): void {
  const error = relativeError(actual, expected);
  assert.ok(error <= tolerance, `${name}: relative error ${error.toExponential(2)} exceeds ${tolerance}`);
}

/** Deterministic test data: n values from a linear congruential generator, roughly uniform in [-scale, scale]. */
export function noise(n: number, seed: number, scale = 1): Float32Array<ArrayBuffer> {
  const values = new Float32Array(n);
  let state = (seed * 2654435761 + 12345) >>> 0;
  for (let i = 0; i < n; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = (state / 2 ** 31 - 1) * scale;
  }
  return values;
}
