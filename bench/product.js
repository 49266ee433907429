// The products of a linear layer: node bench/product.js [--json] [--quick] [--adapter=NAME]
//
// forward y = x W^T, input gradient dx = dy W, weight gradient dW = dy^T x, W [N, K], M rows: the shapes of the
// backbones and the recommender. Frozen weights have no weight gradient; where a shape is a backbone's, y and dx are timed
// with W stored as f16, int8 and int4 too. On adapters that share loads across a subgroup, the kernel of the others (a tile in
// workgroup memory) is timed beside it. Each case is checked against float64 in a few places before it is timed.
import { laser, noise, open, quick } from "./harness.js";

const { linear, linearInputGradient, linearWeightGradient } = laser;
/** M, N, K, and what has this shape. */
const shapes = [
  [512, 64, 64, "recommender"],
  [512, 256, 64, "recommender, feed-forward"],
  [2048, 128, 128, "tiny backbone"],
  [2048, 344, 128, "tiny backbone, gate"],
  [2048, 128, 172, "tiny backbone, down"],
  [6000, 96, 96, "packed tokens"],
  [1024, 256, 256, "packed tokens"],
  [1024, 768, 512, "projection"],
  [96, 3072, 768, "M-Former"],
  [96, 768, 3072, "M-Former"],
  [16, 512, 768, "few rows"],
  [1, 768, 768, "one row"],
].filter(([m, n, k]) => !quick || m * n * k <= 2 ** 26);
/** The same, of frozen layers; on GPUs those of Llama 2 7B, too. */
const frozen = [
  [2048, 344, 128, "tiny backbone, gate"],
  [1024, 768, 512, "projection"],
  [16, 512, 768, "few rows"],
].filter(([m, n, k]) => !quick || m * n * k <= 2 ** 24);

/** Too much work for a software adapter. */
const large = [
  [4096, 4096, 4096, "4096^3"],
  [1600, 22016, 4096, "Llama 2 7B, gate and up"],
  [1600, 4096, 11008, "Llama 2 7B, down"],
];

const bench = await open("Products of a linear layer, [M] rows, weight [N x K]");
const { gpu } = bench;

/** Throws when one of a few elements of y differs from float64: a wrong product must not be timed. */
function check(name, actual, expected, [rows, columns], depth, tolerance = 1e-5) {
  for (let probe = 0; probe < 16; probe++) {
    const i = (probe * 7919) % rows;
    const j = (probe * 104729) % columns;
    const error = Math.abs(actual[i * columns + j] - expected(i, j));
    if (!(error < tolerance * depth)) throw new Error(`${name}: element [${i}, ${j}] is off by ${error}`);
  }
}

const dot = (length, term) => {
  let sum = 0;
  for (let l = 0; l < length; l++) sum += term(l);
  return sum;
};

async function shape([m, n, k, what], sharedSubgroup, suffix) {
  gpu.sharedSubgroup = sharedSubgroup;
  const data = { x: noise(m * k, 1), w: noise(n * k, 2), dy: noise(m * n, 3) };
  const x = gpu.parameter([m, k], "f32", data.x);
  const w = gpu.parameter([n, k], "f32", data.w);
  const dy = gpu.parameter([m, n], "f32", data.dy);
  const dw = gpu.parameter([n, k]);
  const cost = { flops: 2 * m * n * k, bytes: 4 * (m * k + m * n + n * k) };
  const step = gpu.step("check");
  const y = step.readFloats(linear(step, x, w));
  const dx = step.readFloats(linearInputGradient(step, dy, w));
  linearWeightGradient(step, dy, x, dw, false);
  const dwRead = step.readFloats(dw);
  await step.submit();
  check("y", await y, (i, j) => dot(k, (l) => data.x[i * k + l] * data.w[j * k + l]), [m, n], k);
  check("dx", await dx, (i, j) => dot(n, (l) => data.dy[i * n + l] * data.w[l * k + j]), [m, k], n);
  check("dW", await dwRead, (i, j) => dot(m, (l) => data.dy[l * n + i] * data.x[l * k + j]), [n, k], m);
  const label = `M ${m}, W [${n} x ${k}] ${what}${suffix}`;
  await bench.run(`y   ${label}`, cost, (step) => [linear(step, x, w)]);
  await bench.run(`dx  ${label}`, cost, (step) => [linearInputGradient(step, dy, w)]);
  await bench.run(`dW  ${label}`, cost, (step) => {
    linearWeightGradient(step, dy, x, dw, false);
  });
  for (const tensor of [x, w, dy, dw]) gpu.release(tensor);
}

/** y and dx with W in a storage of frozen weights, on tensor cores or (matrix: null) without, checked against what an embedding look-up reads from it. */
async function stored([m, n, k, what], storage, matrix) {
  const ownMatrix = gpu.subgroupMatrix;
  gpu.subgroupMatrix = matrix;
  const data = { x: noise(m * k, 1), dy: noise(m * n, 3) };
  const x = gpu.parameter([m, k], "f32", data.x);
  const dy = gpu.parameter([m, n], "f32", data.dy);
  const w = gpu.parameter([n, k], storage, laser.packWeights(noise(n * k, 2), k, storage));
  const step = gpu.step("check");
  const rows = step.upload(Uint32Array.from({ length: n }, (_, i) => i));
  const values = step.readFloats(laser.embed(step, w, rows));
  const y = step.readFloats(linear(step, x, w));
  const dx = step.readFloats(linearInputGradient(step, dy, w));
  await step.submit();
  const v = await values;
  // Tensor cores round x and dy to f16.
  const tolerance = matrix ? 1e-3 : 1e-5;
  check("y", await y, (i, j) => dot(k, (l) => data.x[i * k + l] * v[j * k + l]), [m, n], k, tolerance);
  check("dx", await dx, (i, j) => dot(n, (l) => data.dy[i * n + l] * v[l * k + j]), [m, k], n, tolerance);
  const matrices = matrix !== null && m >= 32 && storage !== "f32";
  const label = `M ${m}, W [${n} x ${k}] ${what}, ${storage}${matrices ? ", tensor cores" : ""}`;
  const cost = { flops: 2 * m * n * k, bytes: 4 * (m * k + m * n) + w.bytes, matrices };
  await bench.run(`y   ${label}`, cost, (step) => [linear(step, x, w)]);
  await bench.run(`dx  ${label}`, cost, (step) => [linearInputGradient(step, dy, w)]);
  for (const tensor of [x, w, dy]) gpu.release(tensor);
  gpu.subgroupMatrix = ownMatrix;
}

const own = gpu.sharedSubgroup;
try {
  for (const each of shapes) await shape(each, own, "");
  const frozenShapes = gpu.software || quick ? frozen : [...frozen, ...large];
  for (const each of frozenShapes) {
    for (const storage of laser.WEIGHT_STORAGES) {
      if (gpu.offeredMatrix && storage !== "f32" && each[0] >= 32)
        await stored(each, storage, gpu.offeredMatrix);
      await stored(each, storage, null);
    }
  }
  if (own >= 8)
    for (const each of [shapes[0], shapes[2], shapes[6] ?? shapes[5]]) await shape(each, 0, ", tile");
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
await bench.finish();
