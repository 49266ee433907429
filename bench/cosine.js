// The item set: node bench/cosine.js [--json] [--quick] [--adapter=NAME]
//
// Cross-entropy over all items (forward, and with its gradients), exact ranks, and the best 10 of all items. Every
// shape is checked against a float64 reference before it is timed. GFLOP/s counts 2 B I d for the scores, and as much
// again for each product of the gradient.
// Beside each stands the same product alone, by kernels/product*.wgsl: the bound that the reductions are measured by.
// On adapters that make scores in a subgroup (docs/kernels/item-set.md), the kernels of the others, through workgroup
// memory, are checked and timed beside them, with the product that goes with them. The gradient makes the scores again for
// each of its two results, which is not counted: the same GFLOP/s mean the same time.
import { laser, noise, open, quick } from "./harness.js";

const { crossEntropy, crossEntropyGradient, linear, normalizeRows, rankTargets, topItems } = laser;

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
  const shapeName = `${queries} x ${count} x ${width}`;
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
  for (const [sharedSubgroup, way] of ways) {
    gpu.sharedSubgroup = sharedSubgroup;
    const name = `${shapeName}${way}`;
    await check(gpu, name, { h, items, target, targets, width, scale });
    for (const [what, record, flops] of cases) await bench.run(`${name} ${what}`, { flops }, record);
  }
  for (const tensor of [...tensors, target, dLosses, dItems]) gpu.release(tensor);
}

const bench = await open("The item set: B queries x I items x d, f32");
const { gpu } = bench;
/** The adapter's own way, and the one through workgroup memory where that is another. */
const ways = gpu.sharedSubgroup
  ? [
      [gpu.sharedSubgroup, ""],
      [0, ", workgroup memory:"],
    ]
  : [[0, ""]];
try {
  if (quick) await shape(gpu, 8, 1000, 64, 20);
  else {
    await shape(gpu, 32, 20000, 256, 20);
    await shape(gpu, 2048, 4344, 64, 1);
    await shape(gpu, 4, 4344, 768, 20);
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
await bench.finish();
