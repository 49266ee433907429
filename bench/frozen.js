// The frozen Llama: node bench/frozen.js [--json] [--quick] [--adapter=NAME]
//
// Forward, and forward with the backward pass to the virtual tokens (input gradients alone; each layer is recomputed from
// its input), of Llamas with random weights, stored as f32, f16, int8 and int4. A batch is packed prompts: 8 prefix tokens, text, one suffix.
// GFLOP/s counts the operations of the kernels that run, as the ops state them, recomputation included; the limit is
// that of f32 multiply-adds. Before timing, weights of fewer bits must give the hidden states of f32 weights that are what they
// read as, and the gradient of the suffix must agree with a difference quotient.
import { accountOf } from "./account.js";
import { llamaConfig, randomLlama, randomTexts, thousands } from "./backbone.js";
import { json, laser, noise, open, quick } from "./harness.js";

const PREFIX = 8;
const bench = await open("The frozen Llama, random weights");
const { gpu } = bench;
/**
 * The largest difference of a hidden state, whose numbers are of size 1, to the same weights in f32: the same sums but for
 * rounding, except on tensor cores, which round activations to f16. There a slope needs a longer way too, to rise above that.
 */
const BOUNDS = gpu.subgroupMatrix
  ? { hidden: 0.05, distance: 0.005, slope: 0.05 }
  : { hidden: 1e-4, distance: 0.002, slope: 0.01 };
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
  // Short enough for the slope to be straight, long enough for the sums.
  const distance = BOUNDS.distance * Math.hypot(...suffixValues);
  const at = (sign) => suffixValues.map((value, i) => value + (sign * distance * gradient[i]) / norm);
  const above = await evaluate(model, at(1), dHiddenValues);
  const below = await evaluate(model, at(-1), dHiddenValues);
  const slope = (above.sum - below.sum) / (2 * distance);
  if (!(Math.abs(slope - norm) < BOUNDS.slope * norm))
    throw new Error(`${name}: the suffix's gradient has norm ${norm}, the slope along it is ${slope}`);
  return (await evaluate(model, suffixValues, dHiddenValues)).hidden;
}

/** What the words of stored weights stand for, on the host: docs/kernels/product.md has the format. */
function valuesOf(words, { dtype, shape }) {
  const bytes = new DataView(words.buffer, words.byteOffset, words.byteLength);
  if (dtype === "f16")
    return laser.halvesToFloats(new Uint16Array(words.buffer).subarray(0, laser.sizeOf(shape)));
  const [rows, width] = shape;
  const bits = laser.BITS[dtype];
  const stride = laser.rowBytes(width, dtype);
  const scales = 4 * Math.ceil((width * bits) / 32);
  return Float32Array.from({ length: rows * width }, (_, i) => {
    const [start, column] = [stride * Math.floor(i / width), i % width];
    const scale = laser.halfToFloat(bytes.getUint16(start + scales + 2 * Math.floor(column / 64), true));
    const byte = bytes.getInt8(start + Math.floor((column * bits) / 8));
    const code = bits === 8 ? byte : column % 2 ? byte >> 4 : (byte << 28) >> 28;
    return (scale * code) / 2 ** (bits - 1);
  });
}

/** The model with f32 weights that are what its own stand for. */
async function widened({ llama, ...rest }) {
  const weights = await laser.mapWeights(llama.weights, async (weight) => {
    const words = await gpu.read(weight);
    const values = weight.dtype === "f32" ? new Float32Array(words) : valuesOf(words, weight);
    return gpu.parameter(weight.shape, "f32", values);
  });
  return { ...rest, llama: new laser.Decoder(llama.config, weights) };
}

/** Throws unless these are the hidden states of the same model in f32. */
async function checkStorage(name, model, suffixValues, dHiddenValues, hidden) {
  const wide = await widened(model);
  const { hidden: expected } = await evaluate(wide, suffixValues, dHiddenValues);
  wide.llama.release(gpu);
  const off = hidden.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0);
  if (!(off < BOUNDS.hidden))
    throw new Error(`${name}: hidden states are ${off} away from those of the same weights in f32`);
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
  for (const storage of laser.WEIGHT_STORAGES) {
    const llama = await randomLlama(gpu, config, storage);
    const model = { llama, texts: ids, prefix, suffix, hiddenShape: [batch, d] };
    const name = `d ${d} x ${layers}, ${batch} x ${Math.round(tokens / batch)} tokens, ${storage}`;
    const hidden = await checkGradient(name, model, suffixValues, dHiddenValues);
    await checkStorage(name, model, suffixValues, dHiddenValues, hidden);
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
