// Attention: node bench/attention.js [--json] [--quick] [--adapter=NAME]
//
// Self-attention (causal, 12 heads of 64) forward, and forward with backward; cross-attention of 32 queries against 50
// keys (12 heads of 64). Every shape is checked once against a float64 reference before it is timed. GFLOP/s counts the
// multiplications and additions that the shape needs (4 h a pair of query and key forward, 18 h with backward, which
// recomputes the scores twice), not those spent on masked pairs.
import { laser, noise, open, quick } from "./harness.js";

const { crossAttention, crossAttentionGradient, packed, selfAttention, selfAttentionGradient } = laser;

/** o of one query row and head, in float64. */
function referenceRow(q, k, v, keys) {
  const scores = keys.map((key) => q.reduce((sum, x, d) => sum + x * k(key, d), 0) / Math.sqrt(q.length));
  const top = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - top));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return q.map((_, d) => weights.reduce((sum, weight, j) => sum + weight * v(keys[j], d), 0) / total);
}

/** Throws unless the row computed by the GPU is the reference's: a benchmark of wrong results is worthless. */
function assertRow(name, actual, expected) {
  expected.forEach((value, d) => {
    if (!(Math.abs(actual[d] - value) < 1e-4))
      throw new Error(`${name}: o is ${actual[d]}, expected ${value}`);
  });
}

const heads = 12;
const headSize = 64;
const width = heads * headSize;

async function selfCase(gpu, length) {
  const stride = 3 * width;
  const values = noise(length * stride, 1);
  const qkv = gpu.parameter([length, stride], "f32", values);
  const dO = gpu.parameter([length, width], "f32", noise(length * width, 2));
  const columns = (tensor) => ({
    q: { tensor, offset: 0, stride },
    k: { tensor, offset: width, stride },
    v: { tensor, offset: 2 * width, stride },
  });
  const shape = { heads, keyValueHeads: heads, headSize, causal: true };
  const forward = (step) => {
    const sequences = packed(step, [length]);
    return { sequences, ...selfAttention(step, columns(qkv), sequences, shape) };
  };
  const both = (step) => {
    const { sequences, o, lse } = forward(step);
    const { q: dq, k: dk, v: dv } = columns(step.tensor([length, stride]));
    selfAttentionGradient(step, dO, o, lse, columns(qkv), sequences, shape, { dq, dk, dv });
  };
  const step = gpu.step("check");
  const read = step.readFloats(forward(step).o);
  await step.submit();
  const row = length - 1;
  const at = (part) => (key, d) => values[key * stride + part * width + headSize + d];
  const q = Array.from({ length: headSize }, (_, d) => at(0)(row, d));
  const keys = Array.from({ length }, (_, key) => key);
  assertRow(
    "self-attention",
    (await read).slice(row * width + headSize),
    referenceRow(q, at(1), at(2), keys),
  );
  const pairs = (width * length * (length + 1)) / 2;
  return [
    [`causal self-attention forward, ${length} tokens`, forward, 4 * pairs],
    [`causal self-attention forward and backward, ${length} tokens`, both, 18 * pairs],
  ];
}

async function crossCase(gpu, users) {
  const [queryLength, keyLength] = [32, 50];
  const [rows, keyRows] = [users * queryLength, users * keyLength];
  const [queries, memory] = [noise(rows * width, 3), noise(keyRows * 2 * width, 4)];
  const q = gpu.parameter([rows, width], "f32", queries);
  const kv = gpu.parameter([keyRows, 2 * width], "f32", memory);
  const dO = gpu.parameter([rows, width], "f32", noise(rows * width, 5));
  const columns = (q, kv) => ({
    q: { tensor: q, offset: 0, stride: width },
    k: { tensor: kv, offset: 0, stride: 2 * width },
    v: { tensor: kv, offset: width, stride: 2 * width },
  });
  const inputs = columns(q, kv);
  const shape = { heads, headSize, queryLength };
  const keysOf = () => ({ keyLengths: Array(users).fill(keyLength), owner: [...Array(users).keys()] });
  const forward = (step) => crossAttention(step, inputs, keysOf(), shape);
  const both = (step) => {
    const keys = keysOf();
    const { o, lse } = crossAttention(step, inputs, keys, shape);
    const into = columns(step.tensor([rows, width]), step.tensor([keyRows, 2 * width]));
    crossAttentionGradient(step, dO, o, lse, inputs, keys, shape, { dq: into.q, dk: into.k, dv: into.v });
  };
  const step = gpu.step("check");
  const read = step.readFloats(forward(step).o);
  await step.submit();
  const at = (part) => (key, d) => memory[key * 2 * width + part * width + d];
  const keys = Array.from({ length: keyLength }, (_, key) => (users - 1) * keyLength + key);
  const row = Array.from(queries.slice((rows - 1) * width, (rows - 1) * width + headSize));
  assertRow("cross-attention", (await read).slice((rows - 1) * width), referenceRow(row, at(0), at(1), keys));
  const pairs = width * rows * keyLength;
  const name = `${users} x (32 queries, 50 keys)`;
  return [
    [`cross-attention forward, ${name}`, forward, 4 * pairs],
    [`cross-attention forward and backward, ${name}`, both, 18 * pairs],
  ];
}

const bench = await open(`Attention, ${heads} heads of ${headSize}, f32`);
const { gpu } = bench;
try {
  const cases = quick
    ? [...(await selfCase(gpu, 64)), ...(await crossCase(gpu, 1))]
    : [
        ...(await selfCase(gpu, 256)),
        ...(await selfCase(gpu, 512)),
        ...(await crossCase(gpu, 1)),
        ...(await crossCase(gpu, 32)),
      ];
  for (const [name, record, flops] of cases) await bench.run(name, { flops }, record);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
await bench.finish();
