/** Deterministic values in [-scale, scale): a linear congruential generator, the same in every process. */
export function noise(n, seed, scale = 1) {
  const values = new Float32Array(n);
  let state = (seed * 2654435761 + 12345) >>> 0;
  for (let i = 0; i < n; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = (state / 2 ** 31 - 1) * scale;
  }
  return values;
}
