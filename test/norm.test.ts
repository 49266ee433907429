import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Tensor } from "../src/gpu/tensor.ts";
import { layerNorm, layerNormGradient, rmsNorm, rmsNormGradient } from "../src/ops/norm.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient, dot } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("norm");
const gpu = await openTestGpu();
t.after(() => gpu.close());

type Values = ArrayLike<number>;

/** Layer or RMS normalisation (b null) in float64. */
function reference(x: Values, w: Values, b: Values | null, eps: number): Float64Array {
  const width = w.length;
  const y = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    let mean = 0;
    if (b) for (let j = 0; j < width; j++) mean += x[start + j] / width;
    let variance = 0;
    for (let j = 0; j < width; j++) variance += (x[start + j] - mean) ** 2 / width;
    const rstd = 1 / Math.sqrt(variance + eps);
    for (let j = 0; j < width; j++) y[start + j] = (x[start + j] - mean) * rstd * w[j] + (b ? b[j] : 0);
  }
  return y;
}

/** The gradients of sum(y * dy) in float64; `layer` tells layer from RMS normalisation. */
function referenceGradient(dy: Values, x: Values, w: Values, layer: boolean, eps: number) {
  const width = w.length;
  const dx = new Float64Array(x.length);
  const dw = new Float64Array(width);
  const db = new Float64Array(width);
  for (let start = 0; start < x.length; start += width) {
    let mean = 0;
    if (layer) for (let j = 0; j < width; j++) mean += x[start + j] / width;
    let variance = 0;
    for (let j = 0; j < width; j++) variance += (x[start + j] - mean) ** 2 / width;
    const rstd = 1 / Math.sqrt(variance + eps);
    let meanG = 0;
    let meanGn = 0;
    for (let j = 0; j < width; j++) {
      const n = (x[start + j] - mean) * rstd;
      const g = dy[start + j] * w[j];
      dw[j] += dy[start + j] * n;
      db[j] += dy[start + j];
      if (layer) meanG += g / width;
      meanGn += (g * n) / width;
    }
    for (let j = 0; j < width; j++) {
      const n = (x[start + j] - mean) * rstd;
      dx[start + j] = rstd * (dy[start + j] * w[j] - meanG - n * meanGn);
    }
  }
  return { dx, dw, db };
}

for (const layer of [true, false]) {
  t(`the ${layer ? "layer" : "RMS"} norm reference gradient is the derivative`, () => {
    const [x, w, b, dy] = [noise(15, 1), noise(5, 2), noise(5, 3), noise(15, 4)];
    const { dx, dw, db } = referenceGradient(dy, x, w, layer, 1e-5);
    assertGradient("dx", (x) => dot(reference(x, w, layer ? b : null, 1e-5), dy), x, dx);
    assertGradient("dw", (w) => dot(reference(x, w, layer ? b : null, 1e-5), dy), w, dw);
    if (layer) assertGradient("db", (b) => dot(reference(x, w, b, 1e-5), dy), b, db);
  });
}

/** Input around `mean`, so that a variance computed by cancellation would show. */
function inputs(rows: number, width: number, mean: number) {
  const x = noise(rows * width, 1).map((v) => v + mean);
  return {
    x,
    w: noise(width, 2),
    b: noise(width, 3),
    dy: noise(rows * width, 4),
    res: noise(rows * width, 5),
  };
}

const shapes = [
  [0, 5, 0],
  [1, 1, 0],
  [1, 2, 0],
  [3, 7, 0],
  [9, 64, 0],
  [5, 131, 3],
  [67, 128, 0],
  [33, 768, 1],
  [300, 100, 0],
  [300, 99, 0],
  [0, 8, 0],
  [3, 4, 0],
  [2, 4096, 0],
  [1, 2503, 0],
];
/** Lanes of a row: one on software adapters, several on GPUs; every adapter can run both. */
const ways = [gpu.sharedSubgroup || 4, 0];
const cases = ways.flatMap((shared) => shapes.map(([rows, width, mean]) => ({ shared, rows, width, mean })));
for (const { shared, rows, width, mean } of cases) {
  const lanes = shared ? "one lane a row" : "several lanes a row";
  // One or two columns normalise to 1 and -1: the gradient is what eps leaves of it, so eps must not be negligible.
  const eps = width <= 2 ? 0.1 : 1e-5;
  t(`layer norm [${rows}, ${width}], ${lanes}`, async () => {
    gpu.sharedSubgroup = shared;
    const { x, w, b, dy, res } = inputs(rows, width, mean);
    const once = async () => {
      const step = gpu.step("layer norm");
      const [xt, wt, dyt] = [step.upload(x, [rows, width]), step.upload(w), step.upload(dy, [rows, width])];
      const forward = layerNorm(step, xt, wt, step.upload(b), eps);
      const [dw, db]: Tensor[] = [step.tensor([width]), step.tensor([width])];
      const dx = layerNormGradient(step, dyt, xt, wt, forward, { dw, db, accumulate: false });
      const more = layerNormGradient(
        step,
        dyt,
        xt,
        wt,
        forward,
        { dw, db, accumulate: true },
        step.upload(res, [rows, width]),
      );
      const frozen = layerNormGradient(step, dyt, xt, wt, forward, null);
      const reads = [forward.y, dx, more, dw, db, frozen].map((tensor) => step.readFloats(tensor));
      await step.submit();
      return Promise.all(reads);
    };
    const [y, dx, more, dw, db, frozen] = await once();
    const expected = referenceGradient(dy, x, w, true, eps);
    assertClose("y", y, reference(x, w, b, eps), KERNEL_F32);
    assertClose("dx", dx, expected.dx, KERNEL_F32);
    assertClose(
      "dx + residual",
      more,
      expected.dx.map((v, i) => v + res[i]),
      KERNEL_F32,
    );
    assertClose(
      "dw accumulated twice",
      dw,
      expected.dw.map((v) => 2 * v),
      KERNEL_F32,
    );
    assertClose(
      "db accumulated twice",
      db,
      expected.db.map((v) => 2 * v),
      KERNEL_F32,
    );
    assert.equal(frozen, dx);
    assert.equal(await once(), [y, dx, more, dw, db, frozen], "two runs differ");
  });

  t(`RMS norm [${rows}, ${width}], ${lanes}`, async () => {
    gpu.sharedSubgroup = shared;
    const { x, w, dy, res } = inputs(rows, width, mean);
    const once = async () => {
      const step = gpu.step("RMS norm");
      const [xt, wt, dyt] = [step.upload(x, [rows, width]), step.upload(w), step.upload(dy, [rows, width])];
      const { y, rstd } = rmsNorm(step, xt, wt, eps);
      const dw = step.tensor([width]);
      const dx = rmsNormGradient(step, dyt, xt, wt, rstd, { dw, accumulate: false });
      const residual = step.upload(res, [rows, width]);
      const more = rmsNormGradient(step, dyt, xt, wt, rstd, { dw, accumulate: true }, residual);
      const frozen = rmsNormGradient(step, dyt, xt, wt, rstd, null);
      const reads = [y, dx, more, dw, frozen].map((tensor) => step.readFloats(tensor));
      await step.submit();
      return Promise.all(reads);
    };
    const [y, dx, more, dw, frozen] = await once();
    const expected = referenceGradient(dy, x, w, false, eps);
    assertClose("y", y, reference(x, w, null, eps), KERNEL_F32);
    assertClose("dx", dx, expected.dx, KERNEL_F32);
    assertClose(
      "dx + residual",
      more,
      expected.dx.map((v, i) => v + res[i]),
      KERNEL_F32,
    );
    assertClose(
      "dw accumulated twice",
      dw,
      expected.dw.map((v) => 2 * v),
      KERNEL_F32,
    );
    assert.equal(frozen, dx);
    assert.equal(await once(), [y, dx, more, dw, frozen], "two runs differ");
  });
}

t.run();
