import { suite } from "uvu";
import * as assert from "uvu/assert";
import { binaryLoss, binaryLossGradient } from "../src/ops/binary-loss.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("binary loss");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** The two scores of every row, in float64. */
function scores(h: ArrayLike<number>, pair: ArrayLike<number>, rows: number, width: number) {
  return Array.from({ length: rows }, (_, t) => {
    const dot = (from: number) => {
      let sum = 0;
      for (let j = 0; j < width; j++) sum += h[t * width + j] * pair[from + t * width + j];
      return sum;
    };
    return [dot(0), dot(rows * width)];
  });
}

const lossesOf = (each: readonly number[][]) => each.map(([s, n]) => softplus(-s) + softplus(n));

/** dh, then dPair, of factor * sum of the losses. */
function gradient(
  h: ArrayLike<number>,
  pair: ArrayLike<number>,
  rows: number,
  width: number,
  factor: number,
): [Float64Array, Float64Array] {
  const dh = new Float64Array(rows * width);
  const dPair = new Float64Array(2 * rows * width);
  scores(h, pair, rows, width).forEach(([s, n], t) => {
    const [positive, negative] = [factor * (sigmoid(s) - 1), factor * sigmoid(n)];
    for (let j = 0; j < width; j++) {
      const at = t * width + j;
      const other = rows * width + at;
      dh[at] = positive * pair[at] + negative * pair[other];
      dPair[at] = positive * h[at];
      dPair[other] = negative * h[at];
    }
  });
  return [dh, dPair];
}

t("the reference gradient is the derivative", () => {
  const [rows, width] = [3, 5];
  const all = noise(3 * rows * width, 1, 2);
  const split = (x: Float32Array | Float64Array) => [x.slice(0, rows * width), x.slice(rows * width)];
  const [dh, dPair] = gradient(...(split(all) as [Float32Array, Float32Array]), rows, width, 0.7);
  const loss = (x: Float64Array) => {
    const [h, pair] = split(x);
    return 0.7 * lossesOf(scores(h, pair, rows, width)).reduce((a, b) => a + b, 0);
  };
  assertGradient("d", loss, all, [...dh, ...dPair]);
});

for (const [rows, width, range] of [
  [0, 8, 1],
  [1, 1, 1],
  [3, 7, 1],
  [17, 64, 1],
  [131, 65, 2],
  [5, 521, 1],
  [300, 16, 30],
]) {
  t(`binary loss [${rows}, ${width}] within ${range}`, async () => {
    const [h, pair] = [noise(rows * width, 1, range), noise(2 * rows * width, 2)];
    const once = async () => {
      const step = gpu.step("binary loss");
      const ht = step.upload(h, [rows, width]);
      const pt = step.upload(pair, [2 * rows, width]);
      const { losses, slopes } = binaryLoss(step, ht, pt);
      const { dh, dPair } = binaryLossGradient(step, ht, pt, slopes, 0.25);
      const reads = [losses, dh, dPair].map((tensor) => step.readFloats(tensor));
      await step.submit();
      return Promise.all(reads);
    };
    const [losses, dh, dPair] = await once();
    const [expectedH, expectedPair] = gradient(h, pair, rows, width, 0.25);
    assertClose("losses", losses, lossesOf(scores(h, pair, rows, width)), KERNEL_F32);
    assertClose("dh", dh, expectedH, KERNEL_F32);
    assertClose("dPair", dPair, expectedPair, KERNEL_F32);
    assert.equal(await once(), [losses, dh, dPair], "two runs differ");
  });
}

t("scores far out: the loss is the score or zero, never infinite", async () => {
  const step = gpu.step("far out");
  const ht = step.upload(Float32Array.of(1000, 1e30, -1000), [3, 1]);
  const pt = step.upload(Float32Array.of(1, 1, 1, -1, -1, -1), [6, 1]);
  const { losses, slopes } = binaryLoss(step, ht, pt);
  const reads = [losses, slopes].map((tensor) => step.readFloats(tensor));
  await step.submit();
  assert.equal([...(await reads[0])], [0, 0, 2000]);
  assertClose("slopes", await reads[1], [0, 0, 0, 0, -1, 1], KERNEL_F32);
});

t("shapes that do not belong together are refused", async () => {
  const step = gpu.step("refused");
  assert.throws(() => binaryLoss(step, step.tensor([2, 3]), step.tensor([2, 3])), /\[2,3\] against \[2,3\]/);
  await step.submit();
});

t.run();
