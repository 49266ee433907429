// Kernels that memory limits: node bench/memory.js [--json] [--quick] [--adapter=NAME]
//
// Norms, activations, rotary embedding, addition, dropout, look-up and Adam, over 2,048 rows of 768: a few operations for every
// number read, so that their limit is a copy's rate. Versions: one element at a time, for rows that are no multiple of four
// (2,047 of 767), or four; norms with several lanes a row, as on GPUs, or one, as on software adapters. Rates count the
// operations and bytes that the ops state for their kernels. Every result is checked against float64 in a few places.
import { accountOf } from "./account.js";
import { laser, noise, open, quick } from "./harness.js";

const { adamStep, add, dropout, embed, embeddingGradient, gelu, geluGradient } = laser;
const {
  layerNorm,
  layerNormGradient,
  packed,
  rmsNorm,
  rmsNormGradient,
  rope,
  rotaryFrequencies,
  swiglu,
  swigluGradient,
} = laser;

const [ROWS, WIDTH] = quick ? [64, 96] : [2048, 768];
const EPS = 1e-5;
const PROBES = 16;
/** Largest error of an element; the numbers that go in are of size 1. */
const TOLERANCE = 1e-4;

const bench = await open(`Kernels that memory limits, ${ROWS} rows of ${WIDTH}, f32`);
const { gpu } = bench;
const ownSubgroup = gpu.sharedSubgroup;
const held = [];

const sum = (length, term) => {
  let total = 0;
  for (let k = 0; k < length; k++) total += term(k);
  return total;
};
const tanhGelu = (v) => (v / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)));
const silu = (v) => v / (1 + Math.exp(-v));
/** A central difference of f, in float64. */
const slope = (f, v) => (f(v + 1e-5) - f(v - 1e-5)) / 2e-5;

/** Times a case. `reference` gives element i of the tensor that `checked` does: by default the recording itself. */
async function timed(name, record, reference, checked = record) {
  const step = gpu.step("check");
  const read = step.readFloats(checked(step));
  await step.submit();
  const values = await read;
  for (let probe = 0; probe < PROBES; probe++) {
    const i = (probe * 7919) % values.length;
    const error = Math.abs(values[i] - reference(i));
    if (!(error < TOLERANCE)) throw new Error(`${name}: element ${i} is off by ${error}`);
  }
  await bench.run(name, await accountOf(gpu, record), record);
}

/** Inputs of [rows, width], their kernels, and what these shall make of them. */
function inputs(rows, width) {
  const size = rows * width;
  const make = (seed, count = size, shape = [rows, width]) => {
    const values = noise(count, seed);
    const tensor = gpu.parameter(shape, "f32", values);
    held.push(tensor);
    return { values, tensor };
  };
  const [x, dy, weight, bias] = [make(1), make(2), make(3, width, [width]), make(4, width, [width])];
  const gateUp = make(5, 2 * size, [rows, 2 * width]);
  return { rows, width, size, make, x, dy, weight, bias, gateUp };
}

/** The norms, forward and backward. */
async function norms({ rows, width, x, dy, weight, bias }, version) {
  /** Mean (0 for an RMS norm) and 1 / deviation of a row of x. */
  const statistics = (row, centred) => {
    const at = (k) => x.values[row * width + k];
    const mean = centred ? sum(width, at) / width : 0;
    return { mean, rstd: 1 / Math.sqrt(sum(width, (k) => (at(k) - mean) ** 2) / width + EPS) };
  };
  const normed = (centred) => (i) => {
    const { mean, rstd } = statistics(Math.floor(i / width), centred);
    const k = i % width;
    return (x.values[i] - mean) * rstd * weight.values[k] + (centred ? bias.values[k] : 0);
  };
  const normedGradient = (centred) => (i) => {
    const row = Math.floor(i / width);
    const { mean, rstd } = statistics(row, centred);
    const unit = (k) => (x.values[row * width + k] - mean) * rstd;
    const g = (k) => dy.values[row * width + k] * weight.values[k];
    const along = sum(width, (k) => g(k) * unit(k)) / width;
    return rstd * (g(i % width) - (centred ? sum(width, g) / width : 0) - unit(i % width) * along);
  };
  const layer = (step) => layerNorm(step, x.tensor, weight.tensor, bias.tensor, EPS);
  const rms = (step) => rmsNorm(step, x.tensor, weight.tensor, EPS);
  const step = gpu.step("statistics");
  const kept = [layer(step), rms(step)];
  const reads = [kept[0].mean, kept[0].rstd, kept[1].rstd].map((tensor) => step.readFloats(tensor));
  await step.submit();
  const [mean, rstd, rmsRstd] = (await Promise.all(reads)).map((values) => {
    held.push(gpu.parameter([rows], "f32", new Float32Array(values)));
    return held.at(-1);
  });
  await timed(`layer norm, ${version}`, (step) => layer(step).y, normed(true));
  await timed(`RMS norm, ${version}`, (step) => rms(step).y, normed(false));
  await timed(
    `layer norm, input gradient, ${version}`,
    (step) => layerNormGradient(step, dy.tensor, x.tensor, weight.tensor, { mean, rstd }, null),
    normedGradient(true),
  );
  await timed(
    `RMS norm, input gradient, ${version}`,
    (step) => rmsNormGradient(step, dy.tensor, x.tensor, weight.tensor, rmsRstd, null),
    normedGradient(false),
  );
}

/** Activations, addition and Adam. */
async function elementwise({ rows, width, make, x, dy, gateUp }, version) {
  const gate = (i) => gateUp.values[Math.floor(i / width) * 2 * width + (i % width)];
  const up = (i) => gateUp.values[Math.floor(i / width) * 2 * width + width + (i % width)];
  await timed(
    `GELU (tanh), ${version}`,
    (step) => gelu(step, x.tensor, "tanh"),
    (i) => tanhGelu(x.values[i]),
  );
  await timed(
    `GELU, gradient, ${version}`,
    (step) => geluGradient(step, dy.tensor, x.tensor, "tanh"),
    (i) => dy.values[i] * slope(tanhGelu, x.values[i]),
  );
  await timed(
    `SwiGLU, ${version}`,
    (step) => swiglu(step, gateUp.tensor),
    (i) => silu(gate(i)) * up(i),
  );
  await timed(
    `SwiGLU, gradient, ${version}`,
    (step) => swigluGradient(step, dy.tensor, gateUp.tensor),
    (i) => {
      const [row, k] = [Math.floor(i / (2 * width)), i % (2 * width)];
      const j = row * width + (k % width);
      return dy.values[j] * (k < width ? slope(silu, gate(j)) * up(j) : silu(gate(j)));
    },
  );
  await timed(
    `addition, ${version}`,
    (step) => add(step, x.tensor, dy.tensor),
    (i) => x.values[i] + dy.values[i],
  );
  const [parameter, m, v] = [make(7), make(8), make(9)];
  const squares = gpu.parameter([rows, width], "f32", v.values.map(Math.abs));
  held.push(squares);
  const state = { parameter: parameter.tensor, gradient: dy.tensor, m: m.tensor, v: squares };
  const options = { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, t: 1 };
  await timed(
    `Adam, ${version}`,
    (step) => {
      adamStep(step, state, options, null, null);
      return parameter.tensor;
    },
    (i) => {
      const g = dy.values[i];
      const first = (0.9 * m.values[i] + 0.1 * g) / (1 - 0.9);
      const second = (0.999 * Math.abs(v.values[i]) + 0.001 * g * g) / (1 - 0.999);
      return parameter.values[i] - (1e-2 * first) / (Math.sqrt(second) + 1e-8);
    },
  );
}

/** Rotary embedding of rows of one head of 64 after another (32 with --quick), in place; angles made each time. */
async function rotary({ rows, width, make }, name, offset) {
  const headSize = quick ? 32 : 64;
  const stride = width + offset;
  const { tensor, values } = make(6, rows * stride, [rows, stride]);
  const frequencies = rotaryFrequencies(headSize, 10000);
  const options = { heads: width / headSize, headSize, stride, offset, layout: "half", frequencies };
  const rotated = (step) => {
    const { positions } = packed(step, [rows]);
    // There and back again: the numbers stay what they are, however often it is timed.
    rope(step, tensor, positions, { ...options, inverse: false });
    rope(step, tensor, positions, { ...options, inverse: true });
  };
  const once = (step) => {
    const copy = step.upload(values, [rows, stride]);
    rope(step, copy, packed(step, [rows]).positions, { ...options, inverse: false });
    return copy;
  };
  const reference = (i) => {
    const [row, column] = [Math.floor(i / stride), (i % stride) - offset];
    if (column < 0) return values[i];
    const [d, pairs] = [column % headSize, headSize / 2];
    const angle = row * frequencies[d % pairs];
    const other = d < pairs ? -values[i + pairs] : values[i - pairs];
    return values[i] * Math.cos(angle) + other * Math.sin(angle);
  };
  await timed(name, rotated, reference, once);
}

/** Look-up in a table, and the table's gradient, which here writes every row of it once. */
async function lookUp({ rows, width, x, make }, version) {
  const ids = Uint32Array.from({ length: rows }, (_, i) => (i * 31) % rows);
  const { tensor: table } = make(10);
  await timed(
    `embedding look-up, ${version}`,
    (step) => embed(step, x.tensor, step.upload(ids)),
    (i) => x.values[ids[Math.floor(i / width)] * width + (i % width)],
  );
  const rowOf = new Uint32Array(rows);
  ids.forEach((id, row) => {
    rowOf[id] = row;
  });
  await timed(
    `embedding, gradient, ${version}`,
    (step) => {
      embeddingGradient(step, x.tensor, ids, table, false);
      return table;
    },
    (i) => x.values[rowOf[Math.floor(i / width)] * width + (i % width)],
  );
}

/** Dropout: its generator makes four numbers at a time. */
async function dropped({ x }) {
  // Every draw keeps an element at rate 0; what it keeps at others, tests hold against the generator's known answers.
  const key = { seed: 1, step: 1, site: 0 };
  await timed(
    "dropout",
    (step) => dropout(step, x.tensor, 0, key),
    (i) => x.values[i],
  );
}

try {
  // A row fewer and a column fewer: neither a row nor the whole is a multiple of four.
  const odd = inputs(ROWS - 1, WIDTH - 1);
  const even = inputs(ROWS, WIDTH);
  gpu.sharedSubgroup = 0;
  await norms(odd, "one element, several lanes a row");
  await norms(even, "four, several lanes a row");
  gpu.sharedSubgroup = ownSubgroup;
  if (ownSubgroup) await norms(even, "four, one lane a row");
  await elementwise(odd, "one element");
  await elementwise(even, "four");
  await rotary(even, "rotary embedding there and back, one element", 1);
  await rotary(even, "rotary embedding there and back, four", 4);
  await lookUp(odd, "one element");
  await lookUp(even, "four");
  await dropped(even);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
for (const tensor of held) gpu.release(tensor);
await bench.finish();
