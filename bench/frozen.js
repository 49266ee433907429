// The frozen Llama: node bench/frozen.js [--json] [--quick] [--adapter=NAME]
//
// Forward, and forward with the backward pass to the virtual tokens (input gradients alone; each layer is recomputed from
// its input), of Llamas with random weights, stored as f32, f16, int8 and int4. A batch is packed prompts: 8 prefix tokens, text, one suffix.
// GFLOP/s counts the operations of the kernels that run, as the ops state them, recomputation included; the limit is
// that of f32 multiply-adds. Before timing, f16 weights must give f32's hidden states, int8 and int4 states in
// nearly their direction, and the gradient of the suffix must agree with a difference quotient.
import { accountOf } from "./account.js";
import { llamaConfig, randomLlama, randomTexts, thousands } from "./backbone.js";
import { json, laser, noise, open, quick } from "./harness.js";

const PREFIX = 8;
/**
 * Least cosine of a hidden state to that of f32 weights. Random weights lose more to fewer bits than trained ones, and the
 * narrowest most (0.998 and 0.70 at d 64, where a row is one group); weights that are read wrongly give one near zero.
 */
const LEAST_COSINE = { f32: 1 - 1e-6, int8: 0.99, int4: 0.5 };
const bench = await open("The frozen Llama, random weights");
const { gpu } = bench;
const small = { d: 64, layers: 3, heads: 4, keyValueHeads: 2, intermediate: 128, batch: 32 };
// A software adapter would take minutes for 32 sequences.
const middle = { d: 256, layers: 4, heads: 4, intermediate: 688, batch: gpu.software ? 4 : 32 };
const large = { d: 2048, layers: 4, heads: 32, keyValueHeads: 4, intermediate: 5632, batch: 32 };
const tiny = { d: 32, layers: 2, heads: 2, intermediate: 64, batch: 2, longest: 40 };
const shapes = quick ? [tiny] : gpu.software ? [small, middle] : [small, middle, large];

/** One forward pass, and with `dHidden` one backward pass. */
function pass(step, { llama, texts, prefix, suffix }, dHidden) {
  const shape = { prefix: PREFIX, sharedPrefix: false, suffix: 1 };
  const batch = laser.promptBatch(step, texts, shape);
  const { hidden, saved } = llama.forward(step, batch, prefix, suffix, dHidden !== null);
  const dx = dHidden && llama.backward(step, saved, dHidden);
  return { hidden, dx, outputRows: batch.outputRows };
}

/** The hidden states, and sum(hidden * dHidden) for a given suffix. */
async function evaluate(model, suffixValues, dHiddenValues) {
  const step = gpu.step("check");
  const suffix = step.upload(suffixValues, model.suffix.shape);
  const read = step.readFloats(pass(step, { ...model, suffix }, null).hidden);
  await step.submit();
  const hidden = await read;
  return { hidden, sum: hidden.reduce((sum, value, i) => sum + value * dHiddenValues[i], 0) };
}

/** Throws unless the suffix's gradient is the slope along itself. Returns the hidden states. */
async function checkGradient(name, model, suffixValues, dHiddenValues) {
  const width = suffixValues.length;
  const step = gpu.step("check");
  const { dx, outputRows } = pass(step, model, step.upload(dHiddenValues, model.hiddenShape));
  const read = step.readFloats(laser.gatherRows(step, dx, outputRows));
  await step.submit();
  const gradient = new Float32Array(width);
  (await read).forEach((value, i) => {
    gradient[i % width] += value;
  });
  const norm = Math.hypot(...gradient);
  // Short enough for the slope to be straight, long enough for f32.
  const distance = 0.002 * Math.hypot(...suffixValues);
  const at = (sign) => suffixValues.map((value, i) => value + (sign * distance * gradient[i]) / norm);
  const above = await evaluate(model, at(1), dHiddenValues);
  const below = await evaluate(model, at(-1), dHiddenValues);
  const slope = (above.sum - below.sum) / (2 * distance);
  if (!(Math.abs(slope - norm) < 0.01 * norm))
    throw new Error(`${name}: the suffix's gradient has norm ${norm}, the slope along it is ${slope}`);
  return (await evaluate(model, suffixValues, dHiddenValues)).hidden;
}

/** The least cosine between a row of a and the same row of b. */
function leastCosine(a, b, width) {
  let least = 1;
  for (let start = 0; start < a.length; start += width) {
    let [ab, aa, bb] = [0, 0, 0];
    for (let i = start; i < start + width; i++) {
      ab += a[i] * b[i];
      aa += a[i] * a[i];
      bb += b[i] * b[i];
    }
    least = Math.min(least, ab / Math.sqrt(aa * bb));
  }
  return least;
}

async function shape({ batch, longest = 141, ...geometry }) {
  const config = llamaConfig(geometry);
  const { d, layers } = geometry;
  const vocabulary = config.vocabularySize;
  const texts = randomTexts({ count: batch, shortest: Math.round(0.85 * longest), longest, vocabulary });
  const ids = texts.map((text) => text.ids);
  const tokens = ids.reduce((sum, text) => sum + text.length + PREFIX + 1, 0);
  const scale = d ** -0.5;
  const suffixValues = noise(d, 101, scale);
  const dHiddenValues = noise(batch * d, 102);
  const prefix = gpu.parameter([batch * PREFIX, d], "f32", noise(batch * PREFIX * d, 103, scale));
  const suffix = gpu.parameter([1, d], "f32", suffixValues);
  const dHidden = gpu.parameter([batch, d], "f32", dHiddenValues);
  let expected = null;
  for (const storage of laser.WEIGHT_STORAGES) {
    const llama = await randomLlama(gpu, config, storage);
    const model = { llama, texts: ids, prefix, suffix, hiddenShape: [batch, d] };
    const name = `d ${d} x ${layers}, ${batch} x ${Math.round(tokens / batch)} tokens, ${storage}`;
    const hidden = await checkGradient(name, model, suffixValues, dHiddenValues);
    expected ??= hidden;
    if (storage === "f16") {
      const off = Math.max(...hidden.map((value, i) => Math.abs(value - expected[i])));
      if (!(off < 1e-3)) throw new Error(`${name}: hidden states are ${off} away from those of f32 weights`);
    } else {
      const least = leastCosine(hidden, expected, d);
      if (!(least >= LEAST_COSINE[storage]))
        throw new Error(`${name}: hidden states turned from those of f32 weights, cosine ${least}`);
    }
    for (const [what, gradient] of [
      ["forward", null],
      ["forward, backward", dHidden],
    ]) {
      const record = (step) => pass(step, model, gradient);
      const { flops } = await accountOf(gpu, record);
      const result = await bench.run(`${what}: ${name}`, { flops }, record);
      Object.assign(result, { tokens, tokensPerSecond: (1000 * tokens) / result.median });
      if (!json)
        console.log(`  ${thousands(result.tokensPerSecond)} tokens/s, ${result.dispatches} dispatches`);
    }
    llama.release(gpu);
  }
  for (const tensor of [prefix, suffix, dHidden]) gpu.release(tensor);
}

try {
  for (const each of shapes) await shape(each);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
await bench.finish();
