// @ts-check
/**
 * The losses of the first updates of the small transformer (transformer.js), forward, backward and Adam in plain float64
 * loops: whoever's losses agree with these has right gradients.
 */
import { attention, product } from "./reference.js";
import { ADAM, COMPARED, EPSILON, parametersOf, RATE, tokensOf } from "./transformer.js";

/** @typedef {import("./transformer.js").Shape} Shape */
/** @typedef {Record<string, Float64Array>} Named */

/**
 * @type {(shape: Shape, updates?: number) => Float64Array}
 * @returns the loss before each update
 */
export function losses(shape, updates = COMPARED) {
  /** @type {Named} */
  const parameters = {};
  /** @type {Named} */
  const first = {};
  /** @type {Named} */
  const second = {};
  for (const [name, values] of Object.entries(parametersOf(shape).values)) {
    parameters[name] = Float64Array.from(values);
    first[name] = new Float64Array(values.length);
    second[name] = new Float64Array(values.length);
  }
  return Float64Array.from({ length: updates }, (_, update) => {
    const { loss, gradients } = lossAndGradients(shape, parameters);
    const { beta1, beta2, eps } = ADAM;
    for (const name in parameters) {
      const [p, g, m, v] = [parameters[name], gradients[name], first[name], second[name]];
      for (let i = 0; i < p.length; i++) {
        m[i] = beta1 * m[i] + (1 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1 - beta2) * g[i] ** 2;
        const corrected = m[i] / (1 - beta1 ** (update + 1));
        p[i] -= (RATE * corrected) / (Math.sqrt(v[i] / (1 - beta2 ** (update + 1))) + eps);
      }
    }
    return loss;
  });
}

/** @type {(a: Float64Array, b: Float64Array) => Float64Array} */
const plus = (a, b) => a.map((value, i) => value + b[i]);

/**
 * y = x w^T + bias, and its gradients. w [outputs, inputs].
 * @param {Float64Array} x @param {Float64Array} w @param {Float64Array} bias
 */
function linear(x, w, bias) {
  const outputs = bias.length;
  const inputs = w.length / outputs;
  const rows = x.length / inputs;
  const y = product(x, w, rows, inputs, outputs);
  for (let i = 0; i < y.length; i++) y[i] += bias[i % outputs];
  /** @param {Float64Array} dy */
  const backward = (dy) => {
    const dx = product(dy, transposed(w, outputs), rows, outputs, inputs);
    const dw = product(transposed(dy, rows), transposed(x, rows), outputs, rows, inputs);
    return { dx, dw, db: columnSums(dy, outputs) };
  };
  return { y, backward };
}

/** @type {(x: Float64Array, rows: number) => Float64Array} */
function transposed(x, rows) {
  const columns = x.length / rows;
  const y = new Float64Array(x.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) y[c * rows + r] = x[r * columns + c];
  return y;
}

/** @type {(x: Float64Array, columns: number) => Float64Array} */
function columnSums(x, columns) {
  const sums = new Float64Array(columns);
  for (let i = 0; i < x.length; i++) sums[i % columns] += x[i];
  return sums;
}

/**
 * Layer normalisation of rows, and its gradients.
 * @param {Float64Array} x @param {Float64Array} weight @param {Float64Array} bias
 */
function layerNorm(x, weight, bias) {
  const d = weight.length;
  const rows = x.length / d;
  const unit = new Float64Array(x.length);
  const rstd = new Float64Array(rows);
  for (let r = 0; r < rows; r++) {
    const row = x.subarray(r * d, (r + 1) * d);
    const mean = row.reduce((sum, value) => sum + value, 0) / d;
    const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / d;
    rstd[r] = 1 / Math.sqrt(variance + EPSILON);
    for (let i = 0; i < d; i++) unit[r * d + i] = (row[i] - mean) * rstd[r];
  }
  const y = unit.map((value, i) => value * weight[i % d] + bias[i % d]);
  /** @param {Float64Array} dy */
  const backward = (dy) => {
    const dx = new Float64Array(x.length);
    for (let r = 0; r < rows; r++) {
      let mean = 0;
      let along = 0;
      for (let i = 0; i < d; i++) {
        const g = dy[r * d + i] * weight[i];
        mean += g / d;
        along += (g * unit[r * d + i]) / d;
      }
      for (let i = 0; i < d; i++) {
        const at = r * d + i;
        dx[at] = rstd[r] * (dy[at] * weight[i] - mean - unit[at] * along);
      }
    }
    const dw = columnSums(
      dy.map((value, i) => value * unit[i]),
      d,
    );
    return { dx, dw, db: columnSums(dy, d) };
  };
  return { y, backward };
}

const ROOT = Math.sqrt(2 / Math.PI);

/** @type {(x: number) => number} */
const gelu = (x) => 0.5 * x * (1 + Math.tanh(ROOT * (x + 0.044715 * x ** 3)));

/** @type {(x: number) => number} */
function geluSlope(x) {
  const t = Math.tanh(ROOT * (x + 0.044715 * x ** 3));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT * (1 + 3 * 0.044715 * x ** 2);
}

/**
 * The mean cross-entropy of the batch, and the gradient of every parameter.
 * @type {(shape: Shape, p: Named) => { loss: number, gradients: Named }}
 */
export function lossAndGradients(shape, p) {
  const { layers, width: d, heads, vocabulary, batch, length } = shape;
  const { ids, next } = tokensOf(shape);
  const rows = batch * length;
  /** @type {Named} */
  const g = {};
  for (const name in p) g[name] = new Float64Array(p[name].length);
  /** Backward passes, each from the gradient of the stage's output to that of its input. @type {((dy: Float64Array) => Float64Array)[]} */
  const passes = [];

  /** Runs a layer with a weight and a bias, and records its backward pass. @param {typeof linear} layer @param {string} name @param {Float64Array} x */
  const run = (layer, name, x) => {
    const [weight, bias] = [`${name}.weight`, `${name}.bias`];
    const { y, backward } = layer(x, p[weight], p[bias]);
    passes.push((dy) => {
      const { dx, dw, db } = backward(dy);
      g[weight] = dw;
      g[bias] = db;
      return dx;
    });
    return y;
  };
  /** x + branch(x). @param {Float64Array} x @param {(x: Float64Array) => Float64Array} branch */
  const residual = (x, branch) => {
    const start = passes.length;
    const y = plus(x, branch(x));
    const inner = passes.splice(start).reverse();
    passes.push((dy) =>
      plus(
        dy,
        inner.reduce((grad, pass) => pass(grad), dy),
      ),
    );
    return y;
  };
  /** @param {Float64Array} qkv */
  const attend = (qkv) => {
    const part = (/** @type {number} */ n) =>
      Float64Array.from({ length: rows * d }, (_, i) => qkv[Math.floor(i / d) * 3 * d + n * d + (i % d)]);
    const inputs = { q: part(0), k: part(1), v: part(2) };
    const sizes = {
      sequences: batch,
      queries: length,
      keys: length,
      heads,
      headSize: d / heads,
      causal: true,
    };
    passes.push((dO) => {
      const { dq, dk, dv } = attention({ ...inputs, dO }, sizes);
      const all = [dq, dk, dv];
      return qkv.map((_, i) => all[Math.floor((i % (3 * d)) / d)][Math.floor(i / (3 * d)) * d + (i % d)]);
    });
    return attention(inputs, sizes).o;
  };
  /** @param {Float64Array} x */
  const activate = (x) => {
    passes.push((dy) => dy.map((value, i) => value * geluSlope(x[i])));
    return x.map(gelu);
  };

  /** @type {Float64Array} */
  let x = Float64Array.from(
    { length: rows * d },
    (_, i) => p.tokens[ids[Math.floor(i / d)] * d + (i % d)] + p.positions[i % (length * d)],
  );
  for (let n = 0; n < layers; n++) {
    x = residual(x, (input) =>
      run(linear, `${n}.out`, attend(run(linear, `${n}.qkv`, run(layerNorm, `${n}.norm1`, input)))),
    );
    x = residual(x, (input) =>
      run(linear, `${n}.down`, activate(run(linear, `${n}.up`, run(layerNorm, `${n}.norm2`, input)))),
    );
  }
  const last = run(layerNorm, "norm", x);
  const head = linear(last, p.tokens, new Float64Array(vocabulary));
  let loss = 0;
  const dLogits = new Float64Array(rows * vocabulary);
  for (let r = 0; r < rows; r++) {
    const logits = head.y.subarray(r * vocabulary, (r + 1) * vocabulary);
    const top = logits.reduce((a, b) => Math.max(a, b));
    const total = logits.reduce((sum, value) => sum + Math.exp(value - top), 0);
    loss += (top + Math.log(total) - logits[next[r]]) / rows;
    for (let c = 0; c < vocabulary; c++)
      dLogits[r * vocabulary + c] = (Math.exp(logits[c] - top) / total - (c === next[r] ? 1 : 0)) / rows;
  }
  const { dx, dw } = head.backward(dLogits);
  g.tokens = dw;
  const dx0 = passes.reverse().reduce((grad, pass) => pass(grad), dx);
  for (let i = 0; i < dx0.length; i++) {
    g.tokens[ids[Math.floor(i / d)] * d + (i % d)] += dx0[i];
    g.positions[i % (length * d)] += dx0[i];
  }
  return { loss, gradients: g };
}
