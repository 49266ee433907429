// Times of the item set: node bench/cosine.js [--json] [--quick]
//
// Cross-entropy over all items (forward, and with its gradients), exact ranks, and the best 10 of all items. Every
// shape is checked against a float64 reference, compiled and warmed up, then timed from submit to the end of the GPU's
// work; the median counts. GFLOP/s counts 2 B I d for the scores, and as much again for each product of the gradient.
// Beside each stands the same product alone, by kernels/product*.wgsl: the bound that the reductions are measured by.
import {
  crossEntropy,
  crossEntropyGradient,
  Gpu,
  linear,
  normalizeRows,
  rankTargets,
  topItems,
} from "../dist/index.js";

const json = process.argv.includes("--json");
const rounds = process.argv.includes("--quick") ? 3 : 11;

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

/** Milliseconds from submit to completion, the median of the rounds. */
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
  return times[times.length >> 1];
}

/** One query's log-sum-exp, rank counts and best ten ids, in float64 from the GPU's own unit rows. */
function reference(h, items, target, scale, width) {
  const scores = Array.from({ length: items.length / width }, (_, i) => {
    let sum = 0;
    for (let k = 0; k < width; k++) sum += h[k] * items[i * width + k];
    return sum;
  });
  const lse = Math.log(scores.reduce((sum, score) => sum + Math.exp(scale * (score - 1)), 0)) + scale;
  const above = scores.filter((score) => score > scores[target]).length;
  const best = [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b).slice(0, 10);
  return { lse, above, best };
}

/** A benchmark of wrong results is worthless. Scores within f32 rounding of each other may change places. */
async function check(gpu, name, { h, items, target, targets, width, scale }) {
  const step = gpu.step("check");
  const { lse } = crossEntropy(step, h, items, target, scale);
  const reads = [
    h,
    items,
    lse,
    rankTargets(step, h, items, target).above,
    topItems(step, h, items, 10).ids,
  ].map((tensor) => step.read(tensor));
  await step.submit();
  const [rows, all, lses, above, ids] = await Promise.all(reads);
  const expected = reference(rows.subarray(0, width), all, targets[0], scale, width);
  if (!(Math.abs(lses[0] - expected.lse) < 1e-3 * Math.abs(expected.lse)))
    throw new Error(`${name}: log-sum-exp is ${lses[0]}, expected ${expected.lse}`);
  if (Math.abs(above[0] - expected.above) > 2)
    throw new Error(`${name}: ${above[0]} items above the target, expected ${expected.above}`);
  const kept = expected.best.filter((id) => ids.subarray(0, 10).includes(id)).length;
  if (kept < 9) throw new Error(`${name}: best items ${ids.subarray(0, 10)}, expected ${expected.best}`);
}

async function shape(gpu, queries, count, width, scale) {
  const make = gpu.step("make");
  const unit = (rows, seed) => normalizeRows(make, make.upload(noise(rows * width, seed), [rows, width])).y;
  const tensors = [unit(queries, 1), unit(count, 2)].map((y) => {
    const kept = gpu.parameter(y.shape);
    make.copy(y, kept);
    return kept;
  });
  await make.submit();
  const [h, items] = tensors;
  const targets = Uint32Array.from({ length: queries }, (_, q) => (q * 7919) % count);
  const target = gpu.parameter([queries], "u32", targets);
  const dLosses = gpu.parameter([queries], "f32", new Float32Array(queries).fill(1 / queries));
  const dItems = gpu.parameter([count, width]);
  const name = `${queries} x ${count} x ${width}`;
  await check(gpu, name, { h, items, target, targets, width, scale });
  const scores = 2 * queries * count * width;
  const entropy = (step) => crossEntropy(step, h, items, target, scale);
  const gradient = (step, into) => {
    const { lse } = entropy(step);
    crossEntropyGradient(step, h, items, target, lse, dLosses, scale, null, into);
  };
  const into = { dItems, dBias: null, accumulate: false };
  const cases = [
    ["product alone (writes B x I)", (step) => linear(step, h, items), scores],
    ["cross-entropy forward", entropy, scores],
    ["cross-entropy forward, dh", (step) => gradient(step, null), 3 * scores],
    ["cross-entropy forward, dh, dItems", (step) => gradient(step, into), 4 * scores],
    ["exact ranks", (step) => rankTargets(step, h, items, target), scores],
    ["top 10", (step) => topItems(step, h, items, 10), scores],
  ];
  const results = [];
  for (const [what, record, flops] of cases) {
    const milliseconds = await time(gpu, record);
    results.push({ shape: name, what, milliseconds, gflops: flops / milliseconds / 1e6 });
  }
  for (const tensor of [...tensors, target, dLosses, dItems]) gpu.release(tensor);
  return results;
}

const gpu = await Gpu.open();
try {
  const results = [
    ...(await shape(gpu, 32, 20000, 256, 20)),
    ...(await shape(gpu, 2048, 4344, 64, 1)),
    ...(await shape(gpu, 4, 4344, 768, 20)),
  ];
  if (json) {
    console.log(JSON.stringify({ adapter: gpu.adapterName, rounds, results }, null, 2));
  } else {
    console.log(`${gpu.adapterName}\nB x I x d, f32, median of ${rounds}\n`);
    for (const { shape, what, milliseconds, gflops } of results) {
      const rate = `${gflops.toFixed(1).padStart(8)} GFLOP/s`;
      console.log(`${shape.padEnd(18)} ${what.padEnd(36)} ${milliseconds.toFixed(2).padStart(9)} ms ${rate}`);
    }
  }
} finally {
  gpu.close();
}
