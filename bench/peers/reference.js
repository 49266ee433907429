// @ts-check
/**
 * What every case must give, in plain float64 loops, and how far a result is from it.
 */
import { inputsOf } from "./cases.js";
import { losses } from "./reference-training.js";

/** @typedef {import("./cases.js").Case} Case */
/** @typedef {Record<string, ArrayLike<number>>} Results */

/**
 * The largest error that counts as right, over the root mean square of the expected values. Sums of 1,024 products in f32
 * are off by 1e-6 of it; a tile whose barrier is missing by percents.
 */
export const TOLERANCE = 1e-3;

/**
 * y [m, n] = x [m, k] w [n, k]^T. Four columns at a time: one sum alone waits for its own additions.
 * @type {(x: ArrayLike<number>, w: ArrayLike<number>, m: number, k: number, n: number) => Float64Array}
 */
export function product(x, w, m, k, n) {
  // One type of array, whatever came in: the loop is compiled for it.
  const a = Float64Array.from(x);
  const b = new Float64Array(Math.ceil(n / 4) * 4 * k);
  b.set(Float64Array.from(w));
  const y = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    const row = a.subarray(i * k, (i + 1) * k);
    for (let j = 0; j < n; j += 4) {
      const at = j * k;
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      for (let l = 0; l < k; l++) {
        const value = row[l];
        s0 += value * b[at + l];
        s1 += value * b[at + k + l];
        s2 += value * b[at + 2 * k + l];
        s3 += value * b[at + 3 * k + l];
      }
      const sums = [s0, s1, s2, s3];
      for (let c = 0; c < 4 && j + c < n; c++) y[i * n + j + c] = sums[c];
    }
  }
  return y;
}

/**
 * softmax(q k^T / sqrt(headSize)) v by head and sequence, and with `dO` its gradients. q and dO [sequences * queries,
 * heads * headSize], k and v [sequences * keys, ...]; causal: query i sees keys up to i.
 * @param {Values} inputs
 * @param {{ sequences: number, queries: number, keys: number, heads: number, headSize: number, causal: boolean }} shape
 * @typedef {{ q: ArrayLike<number>, k: ArrayLike<number>, v: ArrayLike<number>, dO?: ArrayLike<number> }} Values
 * @returns {Record<string, Float64Array>} o, and dq, dk, dv where there is dO
 */
export function attention(inputs, { sequences, queries, keys, heads, headSize, causal }) {
  const [q, k, v] = [inputs.q, inputs.k, inputs.v].map((values) => Float64Array.from(values));
  const dO = inputs.dO && Float64Array.from(inputs.dO);
  const width = heads * headSize;
  const scale = 1 / Math.sqrt(headSize);
  const o = new Float64Array(q.length);
  const dq = new Float64Array(dO ? q.length : 0);
  const dk = new Float64Array(dO ? k.length : 0);
  const dv = new Float64Array(dO ? v.length : 0);
  const p = new Float64Array(keys);
  const dp = new Float64Array(keys);
  for (let s = 0; s < sequences; s++)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < queries; i++) {
        const row = (s * queries + i) * width + h * headSize;
        const seen = causal ? i + 1 : keys;
        /** @type {(j: number) => number} */
        const key = (j) => (s * keys + j) * width + h * headSize;
        let top = -Infinity;
        for (let j = 0; j < seen; j++) {
          let score = 0;
          for (let d = 0; d < headSize; d++) score += q[row + d] * k[key(j) + d];
          p[j] = score * scale;
          top = Math.max(top, p[j]);
        }
        let total = 0;
        for (let j = 0; j < seen; j++) {
          p[j] = Math.exp(p[j] - top);
          total += p[j];
        }
        for (let j = 0; j < seen; j++) {
          p[j] /= total;
          for (let d = 0; d < headSize; d++) o[row + d] += p[j] * v[key(j) + d];
        }
        if (!dO) continue;
        let mean = 0;
        for (let j = 0; j < seen; j++) {
          let sum = 0;
          for (let d = 0; d < headSize; d++) sum += dO[row + d] * v[key(j) + d];
          dp[j] = sum;
          mean += p[j] * sum;
        }
        for (let j = 0; j < seen; j++) {
          const ds = p[j] * (dp[j] - mean) * scale;
          for (let d = 0; d < headSize; d++) {
            dq[row + d] += ds * k[key(j) + d];
            dk[key(j) + d] += ds * q[row + d];
            dv[key(j) + d] += p[j] * dO[row + d];
          }
        }
      }
  return dO ? { o, dq, dk, dv } : { o };
}

/**
 * The natural log-sum-exp of each row of scores [rows, columns].
 * @type {(scores: ArrayLike<number>, rows: number, columns: number) => Float64Array}
 */
export function logSumExp(scores, rows, columns) {
  return Float64Array.from({ length: rows }, (_, r) => {
    let top = -Infinity;
    for (let c = 0; c < columns; c++) top = Math.max(top, scores[r * columns + c]);
    let sum = 0;
    for (let c = 0; c < columns; c++) sum += Math.exp(scores[r * columns + c] - top);
    return top + Math.log(sum);
  });
}

/**
 * The k largest scores of each row, descending.
 * @type {(scores: Float64Array, rows: number, columns: number, k: number) => Float64Array}
 */
export function topScores(scores, rows, columns, k) {
  const top = new Float64Array(rows * k);
  for (let r = 0; r < rows; r++) {
    const sorted = scores.slice(r * columns, (r + 1) * columns).sort();
    for (let i = 0; i < k; i++) top[r * k + i] = sorted[columns - 1 - i];
  }
  return top;
}

/**
 * The error of a result: the largest difference from what is expected, over the expected values' root mean square.
 * Infinity where a value is missing or not finite.
 * @type {(actual: ArrayLike<number> | undefined, expected: ArrayLike<number>) => number}
 */
export function errorOf(actual, expected) {
  if (actual?.length !== expected.length) return Infinity;
  let largest = 0;
  let squares = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    if (!(difference < Infinity)) return Infinity;
    largest = Math.max(largest, difference);
    squares += expected[i] ** 2;
  }
  return largest / Math.sqrt(squares / expected.length);
}

/**
 * A case's judge: computes what is right once, and gives the error of an engine's results (the largest of all outputs).
 * @type {(each: Case) => (results: Results) => number}
 */
export function judge(each) {
  const { kind, shape } = each;
  const inputs = inputsOf(each);
  if (kind === "top-items") return judgeTop(inputs, shape);
  const expected = expectedOf(kind, shape, inputs);
  return (results) =>
    Math.max(...Object.entries(expected).map(([name, values]) => errorOf(results[name], values)));
}

/** @type {(kind: Case["kind"], shape: Case["shape"], inputs: Record<string, Float32Array>) => Record<string, Float64Array>} */
function expectedOf(kind, shape, inputs) {
  switch (kind) {
    case "product":
      return { y: product(inputs.x, inputs.w, shape.m, shape.k, shape.n) };
    case "log-sum-exp": {
      const scores = product(inputs.h, inputs.items, shape.queries, shape.width, shape.items);
      return { lse: logSumExp(scores, shape.queries, shape.items) };
    }
    case "training":
      return { losses: losses(shape) };
    default: {
      const { length, users = 1, queries = length, keys = length, heads, headSize } = shape;
      const causal = kind !== "cross-attention";
      const { q, k, v, dO } = inputs;
      return attention({ q, k, v, dO }, { sequences: users, queries, keys, heads, headSize, causal });
    }
  }
}

/**
 * Items within f32 rounding of each other may change places, so ids are judged by their float64 scores: each place must
 * hold an item whose score is that of the place, no item twice, and the stated score must be the item's.
 * @type {(inputs: Record<string, Float32Array>, shape: Case["shape"]) => (results: Results) => number}
 */
function judgeTop({ h, items }, { queries, items: count, width, k }) {
  const scores = product(h, items, queries, width, count);
  const expected = topScores(scores, queries, count, k);
  return ({ ids, scores: stated }) => {
    if (ids?.length !== queries * k) return Infinity;
    for (let r = 0; r < queries; r++) {
      const row = Array.from({ length: k }, (_, i) => ids[r * k + i]);
      if (new Set(row).size !== k || row.some((id) => !(id >= 0 && id < count))) return Infinity;
    }
    const found = Float64Array.from(expected, (_, i) => scores[Math.floor(i / k) * count + ids[i]]);
    return Math.max(errorOf(found, expected), errorOf(stated, expected));
  };
}
