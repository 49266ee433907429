// @ts-check
/**
 * The small transformer whose training step is timed, as GPT-2 has it: token and position embeddings; layers of
 * x + W_o attention(LN(x)) and x + W_2 gelu(W_1 LN(x)), all with biases, GELU by tanh; a last LN; logits by the token
 * embedding. Loss: mean cross-entropy of the given next tokens. Adam as PyTorch's by default, no decay, no clipping.
 * Every engine and the reference (reference-training.js) start from these values.
 */
import { noise } from "../noise.js";

export const EPSILON = 1e-5;
export const RATE = 1e-3;
export const ADAM = { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
/** Updates whose losses are compared before the step is timed. */
export const COMPARED = 5;

/** @typedef {Readonly<Record<string, number>>} Shape layers, width, heads, vocabulary, batch, length */

/**
 * Every parameter's shape and first values: weights of standard deviation 0.02, norms 1, biases 0. Weights are [out, in].
 * @type {(shape: Shape) => { shapes: Record<string, number[]>, values: Record<string, Float32Array> }}
 */
export function parametersOf({ layers, width: d, vocabulary, length }) {
  /** @type {Record<string, number[]>} */
  const shapes = { tokens: [vocabulary, d], positions: [length, d] };
  for (let n = 0; n < layers; n++) {
    Object.assign(shapes, {
      [`${n}.norm1.weight`]: [d],
      [`${n}.norm1.bias`]: [d],
      [`${n}.qkv.weight`]: [3 * d, d],
      [`${n}.qkv.bias`]: [3 * d],
      [`${n}.out.weight`]: [d, d],
      [`${n}.out.bias`]: [d],
      [`${n}.norm2.weight`]: [d],
      [`${n}.norm2.bias`]: [d],
      [`${n}.up.weight`]: [4 * d, d],
      [`${n}.up.bias`]: [4 * d],
      [`${n}.down.weight`]: [d, 4 * d],
      [`${n}.down.bias`]: [d],
    });
  }
  Object.assign(shapes, { "norm.weight": [d], "norm.bias": [d] });
  /** @type {Record<string, Float32Array>} */
  const values = {};
  Object.entries(shapes).forEach(([name, shape], i) => {
    const size = shape.reduce((a, b) => a * b, 1);
    if (shape.length === 2) values[name] = noise(size, 100 + i, 0.02 * Math.sqrt(3));
    else values[name] = new Float32Array(size).fill(name.includes("norm") && name.endsWith("weight") ? 1 : 0);
  });
  return { shapes, values };
}

/**
 * One batch, used at every step: ids and the ids that follow them, batch * length each. Token t + 1 is a fixed function
 * of token t, so that there is something to learn.
 * @type {(shape: Shape) => { ids: Uint32Array, next: Uint32Array }}
 */
export function tokensOf({ vocabulary, batch, length }) {
  const ids = new Uint32Array(batch * length);
  const next = new Uint32Array(batch * length);
  for (let b = 0; b < batch; b++) {
    let token = (b * 37 + 11) % vocabulary;
    for (let t = 0; t < length; t++) {
      ids[b * length + t] = token;
      token = (token * 5 + 7) % vocabulary;
      next[b * length + t] = token;
    }
  }
  return { ids, next };
}
