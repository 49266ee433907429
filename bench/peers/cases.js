// @ts-check
/**
 * The works that bench/peers times, and their inputs: the same values in every engine's process and in the reference.
 * `target` is the least ratio of the better right peer's time to ours that the project asks of itself.
 */
import { noise } from "../noise.js";
import { parametersOf, tokensOf } from "./transformer.js";

/**
 * @typedef {"product" | "attention" | "attention-gradient" | "cross-attention" | "log-sum-exp" | "top-items" | "training"} Kind
 * @typedef {{ name: string, part: string, kind: Kind, target: number, shape: Readonly<Record<string, number>> }} Case
 * @typedef {Record<string, Float32Array>} Values Host arrays by name.
 */

/** @type {(m: number, k: number, n: number) => Case} */
const product = (m, k, n) => ({
  name: `product [${m} x ${k}] x [${k} x ${n}]`,
  part: "product",
  kind: "product",
  target: 2,
  shape: { m, k, n },
});

/** @type {(length: number, gradient: boolean, heads?: number, headSize?: number) => Case} */
const attention = (length, gradient, heads = 12, headSize = 64) => ({
  name: `causal attention forward${gradient ? " and backward" : ""}, ${heads} x ${headSize}, ${length} tokens`,
  part: "attention",
  kind: gradient ? "attention-gradient" : "attention",
  target: 2,
  shape: { heads, headSize, length },
});

/** @type {(users: number, heads?: number, headSize?: number, keys?: number) => Case} */
const cross = (users, heads = 12, headSize = 64, keys = 50) => ({
  name: `cross-attention, ${heads} x ${headSize}, ${users} x (32 queries, ${keys} keys)`,
  part: "cross-attention",
  kind: "cross-attention",
  target: 2,
  shape: { users, heads, headSize, queries: 32, keys },
});

/** @type {(queries: number, items: number, width: number) => Case[]} */
const itemSet = (queries, items, width) => [
  {
    name: `log-sum-exp over items, ${queries} x ${items} x ${width}`,
    part: "log-sum-exp",
    kind: "log-sum-exp",
    target: 2,
    shape: { queries, items, width },
  },
  {
    name: `top 10 of the items, ${queries} x ${items} x ${width}`,
    part: "top-items",
    kind: "top-items",
    target: 10,
    shape: { queries, items, width, k: 10 },
  },
];

/** @type {(shape: Readonly<Record<string, number>>) => Case} */
const training = (shape) => ({
  name: `training step, ${shape.layers} layers, d ${shape.width}, vocabulary ${shape.vocabulary}, ${shape.batch} x ${shape.length} tokens`,
  part: "training",
  kind: "training",
  target: 3,
  shape,
});

/** @type {readonly Case[]} */
export const FULL = [
  product(256, 256, 256),
  product(512, 512, 512),
  product(1024, 1024, 1024),
  product(96, 768, 3072),
  attention(256, false),
  attention(512, false),
  attention(256, true),
  attention(512, true),
  cross(12),
  ...itemSet(32, 20000, 256),
  training({ layers: 4, width: 128, heads: 2, vocabulary: 1024, batch: 4, length: 128 }),
];

/**
 * Small enough for a test; their times say little. Not smaller than 64: jax unrolls sums of 32 (and of 50) whole, and
 * lavapipe takes a minute and more to compile what comes of it. For the same reason the training step has heads of 64.
 */
/** @type {readonly Case[]} */
export const QUICK = [
  product(64, 64, 128),
  attention(64, false, 2, 64),
  attention(64, true, 2, 64),
  cross(2, 2, 64, 64),
  ...itemSet(8, 1024, 64),
  training({ layers: 1, width: 64, heads: 1, vocabulary: 64, batch: 1, length: 64 }),
];

/**
 * Rows of unit length, then scaled.
 * @type {(rows: number, width: number, seed: number, scale: number) => Float32Array}
 */
function unitRows(rows, width, seed, scale) {
  const values = noise(rows * width, seed);
  for (let r = 0; r < rows; r++) {
    const row = values.subarray(r * width, (r + 1) * width);
    const norm = Math.hypot(...row);
    for (let i = 0; i < width; i++) row[i] *= scale / norm;
  }
  return values;
}

/**
 * A case's inputs. Attention's have a row a token, with the heads side by side: q, k, v and dO [length, heads * headSize].
 * @type {(each: Case) => Values}
 */
export function inputsOf({ kind, shape }) {
  switch (kind) {
    case "product": // y = x w^T: w as a linear layer keeps it, [n, k].
      return { x: noise(shape.m * shape.k, 1), w: noise(shape.n * shape.k, 2) };
    case "attention":
    case "attention-gradient": {
      const size = shape.length * shape.heads * shape.headSize;
      const inputs = { q: noise(size, 1), k: noise(size, 2), v: noise(size, 3) };
      return kind === "attention" ? inputs : { ...inputs, dO: noise(size, 4) };
    }
    case "cross-attention": {
      const row = shape.users * shape.heads * shape.headSize;
      return {
        q: noise(shape.queries * row, 1),
        k: noise(shape.keys * row, 2),
        v: noise(shape.keys * row, 3),
      };
    }
    case "log-sum-exp":
    case "top-items": // Cosines times 20, the factor already in the queries: nobody has to multiply the scores.
      return {
        h: unitRows(shape.queries, shape.width, 1, 20),
        items: unitRows(shape.items, shape.width, 2, 1),
      };
    case "training":
      return parametersOf(shape).values;
  }
}

export { tokensOf };
