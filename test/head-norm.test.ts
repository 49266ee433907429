import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type HeadNormShape, headNorm, headNormGradient } from "../src/ops/head-norm.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient, dot } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("head norm");
const gpu = await openTestGpu();
t.after(() => gpu.close());

type Values = ArrayLike<number>;

/** Visits every query and key head: where it starts in x, in y, and its first weight. */
function eachHead(
  rows: number,
  stride: number,
  { heads, keyValueHeads, headSize }: HeadNormShape,
  visit: (from: number, to: number, weight: number) => void,
): void {
  for (let t = 0; t < rows; t++) {
    for (let i = 0; i < heads + keyValueHeads; i++) {
      const to = (t * (heads + keyValueHeads) + i) * headSize;
      visit(t * stride + i * headSize, to, i < heads ? 0 : headSize);
    }
  }
}

const sizeOf = (rows: number, { heads, keyValueHeads, headSize }: HeadNormShape) =>
  rows * (heads + keyValueHeads) * headSize;

/** The normalised heads in float64. */
function reference(x: Values, w: Values, rows: number, stride: number, shape: HeadNormShape, eps: number) {
  const y = new Float64Array(sizeOf(rows, shape));
  eachHead(rows, stride, shape, (from, to, weight) => {
    let mean = 0;
    for (let j = 0; j < shape.headSize; j++) mean += x[from + j] ** 2 / shape.headSize;
    const scale = 1 / Math.sqrt(mean + eps);
    for (let j = 0; j < shape.headSize; j++) y[to + j] = x[from + j] * scale * w[weight + j];
  });
  return y;
}

/** The gradient of sum(y * dy) at x in float64; what lies past the heads keeps its value from `rest`. */
function referenceGradient(
  dy: Values,
  x: Values,
  w: Values,
  rows: number,
  stride: number,
  shape: HeadNormShape,
  eps: number,
  rest: Values,
): Float64Array {
  const dx = Float64Array.from(rest);
  eachHead(rows, stride, shape, (from, to, weight) => {
    let squares = 0;
    let along = 0;
    for (let j = 0; j < shape.headSize; j++) {
      squares += x[from + j] ** 2 / shape.headSize;
      along += (dy[to + j] * w[weight + j] * x[from + j]) / shape.headSize;
    }
    const scale = 1 / Math.sqrt(squares + eps);
    for (let j = 0; j < shape.headSize; j++) {
      dx[from + j] = scale * (dy[to + j] * w[weight + j] - x[from + j] * scale * scale * along);
    }
  });
  return dx;
}

t("the reference gradient is the derivative", () => {
  const shape = { heads: 2, keyValueHeads: 1, headSize: 3 };
  const [x, w, dy] = [noise(2 * 11, 1), noise(6, 2), noise(2 * 9, 3)];
  const dx = referenceGradient(dy, x, w, 2, 11, shape, 1e-5, new Float32Array(22));
  assertGradient("dx", (x) => dot(reference(x, w, 2, 11, shape, 1e-5), dy), x, dx);
});

const cases: [rows: number, stride: number, shape: HeadNormShape][] = [
  [0, 6, { heads: 1, keyValueHeads: 1, headSize: 2 }],
  [1, 1, { heads: 1, keyValueHeads: 0, headSize: 1 }],
  [1, 6, { heads: 1, keyValueHeads: 1, headSize: 2 }],
  [3, 35, { heads: 3, keyValueHeads: 2, headSize: 5 }],
  [7, 64, { heads: 4, keyValueHeads: 2, headSize: 8 }],
  [17, 131, { heads: 2, keyValueHeads: 1, headSize: 37 }],
  [67, 4 * 128, { heads: 2, keyValueHeads: 1, headSize: 128 }],
  [300, 24, { heads: 2, keyValueHeads: 2, headSize: 4 }],
];
for (const [rows, stride, shape] of cases) {
  const { heads, keyValueHeads, headSize } = shape;
  t(`${rows} rows of ${stride}, ${heads} + ${keyValueHeads} heads of ${headSize}`, async () => {
    // One element normalises to 1 or -1: the gradient is what eps leaves of it.
    const eps = headSize <= 2 ? 0.1 : 1e-5;
    const [x, w] = [noise(rows * stride, 1), noise(2 * headSize, 2)];
    const [dy, rest] = [noise(sizeOf(rows, shape), 3), noise(rows * stride, 4)];
    const once = async () => {
      const step = gpu.step("head norm");
      const [xt, wt] = [step.upload(x, [rows, stride]), step.upload(w)];
      const y = step.readFloats(headNorm(step, xt, wt, shape, eps));
      const dx = step.upload(rest, [rows, stride]);
      const dyt = step.upload(dy, [rows, (heads + keyValueHeads) * headSize]);
      headNormGradient(step, dyt, xt, wt, shape, eps, dx);
      const gradient = step.readFloats(dx);
      await step.submit();
      return [await y, await gradient];
    };
    const [y, dx] = await once();
    assertClose("y", y, reference(x, w, rows, stride, shape, eps), KERNEL_F32);
    assertClose("dx", dx, referenceGradient(dy, x, w, rows, stride, shape, eps, rest), KERNEL_F32);
    assert.equal(await once(), [y, dx], "two runs differ");
  });
}

t("heads that do not fit their rows are refused", async () => {
  const step = gpu.step("refused");
  const shape = { heads: 2, keyValueHeads: 1, headSize: 4 };
  assert.throws(() => headNorm(step, step.tensor([1, 11]), step.tensor([8]), shape, 1e-5), /head norm of 3/);
  await step.submit();
});

t.run();
