// Times of attention: node bench/attention.js [--json] [--quick]
//
// Self-attention (causal, 12 heads of 64) forward, and forward with backward; cross-attention of 32 queries against 50
// keys (12 heads of 64). Every shape is checked once against a float64 reference, compiled and warmed up, then timed
// from submit to the end of the GPU's work; the median counts. GFLOP/s counts the multiplications and additions that
// the shape needs (4 h a pair of query and key forward, 18 h with backward, which recomputes the scores twice), not
// those spent on masked pairs. The limit is measured beside it: fused multiply-adds from registers.
import {
  crossAttention,
  crossAttentionGradient,
  Gpu,
  packed,
  selfAttention,
  selfAttentionGradient,
} from "../dist/index.js";

const json = process.argv.includes("--json");
const rounds = process.argv.includes("--quick") ? 3 : 15;

/** Deterministic values in [-1, 1). */
function noise(n, seed) {
  const values = new Float32Array(n);
  let state = (seed * 2654435761 + 12345) >>> 0;
  for (let i = 0; i < n; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = state / 2 ** 31 - 1;
  }
  return values;
}

/** Milliseconds from submit to completion: median and fastest of the rounds. */
async function time(gpu, record) {
  const times = [];
  for (let round = -2; round < rounds; round++) {
    const step = gpu.step("bench");
    record(step);
    const start = performance.now();
    await step.submit();
    if (round >= 0) times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  return { median: times[times.length >> 1], fastest: times[0] };
}

/** GFLOP/s of independent fused multiply-adds from registers, in every lane the adapter has. */
async function limit(gpu) {
  const chains = 16;
  const sums = Array.from({ length: chains }, (_, i) => `s${i}`);
  const source = `requires immediate_address_space;
struct Params { rounds: u32, factor: f32 }
var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let x = f32(id.x);
  ${sums.map((s, i) => `var ${s} = x + ${i}.0;`).join(" ")}
  for (var i = 0u; i < params.rounds; i++) { ${sums.map((s) => `${s} = fma(${s}, params.factor, x);`).join(" ")} }
  y[id.x] = ${sums.join(" + ")};
}`;
  const kernel = {
    name: "bench_multiply_add",
    source,
    bindings: [{ name: "y", binding: 0, access: "read_write" }],
    params: [
      { name: "rounds", type: "u32", offset: 0 },
      { name: "factor", type: "f32", offset: 4 },
    ],
    paramBytes: 8,
    overrides: [],
  };
  const groups = gpu.software ? 256 : 16384;
  const count = gpu.software ? 1000 : 4000;
  const { fastest } = await time(gpu, (step) => {
    const y = step.tensor([groups * 64]);
    const params = { rounds: count, factor: 0.5 };
    step.run(kernel, { bindings: { y }, params, workgroups: [groups] });
  });
  return (2 * groups * 64 * chains * count) / fastest / 1e6;
}

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

const gpu = await Gpu.open();
try {
  const peak = await limit(gpu);
  const results = [];
  const cases = [
    ...(await selfCase(gpu, 256)),
    ...(await selfCase(gpu, 512)),
    ...(await crossCase(gpu, 1)),
    ...(await crossCase(gpu, 32)),
  ];
  for (const [name, record, flops] of cases) {
    const { median, fastest } = await time(gpu, record);
    const rate = flops / median / 1e6;
    results.push({ name, milliseconds: median, fastest, gflops: rate, shareOfLimit: rate / peak });
  }
  if (json) {
    const shape = { heads, headSize };
    console.log(
      JSON.stringify({ adapter: gpu.adapterName, rounds, shape, limitGflops: peak, results }, null, 2),
    );
  } else {
    console.log(`${gpu.adapterName}\n${heads} heads of ${headSize}, f32; limit ${peak.toFixed(1)} GFLOP/s\n`);
    for (const { name, milliseconds, fastest, gflops, shareOfLimit } of results) {
      const times = `${milliseconds.toFixed(2).padStart(9)} ms (fastest ${fastest.toFixed(2).padStart(8)})`;
      const rates = `${gflops.toFixed(1).padStart(8)} GFLOP/s  ${(100 * shareOfLimit).toFixed(0).padStart(3)}%`;
      console.log(`${name.padEnd(62)} ${times} ${rates}`);
    }
  }
} finally {
  gpu.close();
}
