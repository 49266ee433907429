import { suite } from "uvu";
import * as assert from "uvu/assert";
import { linear, linearInputGradient, linearWeightGradient } from "../src/ops/linear.ts";
import { assertClose, noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("linear");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** y = x W^T + b in float64. */
function reference(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  b: ArrayLike<number> | null,
  [m, n, k]: number[],
): number[] {
  const y = new Array<number>(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = b ? b[j] : 0;
      for (let l = 0; l < k; l++) sum += x[i * k + l] * w[j * k + l];
      y[i * n + j] = sum;
    }
  }
  return y;
}

/** The transpose of a [rows, columns] matrix. */
function transpose(a: ArrayLike<number>, rows: number, columns: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = a[i * columns + j];
  return out;
}

for (const [m, n, k] of [
  [1, 1, 1],
  [1, 64, 7],
  [3, 5, 2],
  [64, 64, 16],
  [67, 129, 65],
  [130, 1, 31],
  [17, 200, 128],
  [33, 36, 20],
  [1, 64, 96],
]) {
  t(`forward and gradients, M ${m} N ${n} K ${k}`, async () => {
    const x = noise(m * k, 1);
    const w = noise(n * k, 2);
    const b = noise(n, 3);
    const dy = noise(m * n, 4);
    const step = gpu.step("linear");
    const xt = step.upload(x, [m, k]);
    const wt = step.upload(w, [n, k]);
    const dyt = step.upload(dy, [m, n]);
    const y = step.readFloats(linear(step, xt, wt, step.upload(b)));
    const added = step.readFloats(linear(step, xt, wt, null, { residual: dyt }));
    const dx = step.readFloats(linearInputGradient(step, dyt, wt));
    const dwt = step.tensor([n, k]);
    linearWeightGradient(step, dyt, xt, dwt, false);
    linearWeightGradient(step, dyt, xt, dwt, true);
    const dw = step.readFloats(dwt);
    await step.submit();
    assertClose("y", await y, reference(x, w, b, [m, n, k]), KERNEL_F32);
    const sum = reference(x, w, null, [m, n, k]).map((value, i) => value + dy[i]);
    assertClose("x W^T + residual", await added, sum, KERNEL_F32);
    assertClose("dx", await dx, reference(dy, transpose(w, n, k), null, [m, k, n]), KERNEL_F32);
    const once = reference(transpose(dy, m, n), transpose(x, m, k), null, [n, k, m]);
    assertClose(
      "dW, accumulated twice",
      await dw,
      once.map((v) => 2 * v),
      KERNEL_F32,
    );
  });
}

for (const shape of [
  [5, 300, 129],
  [33, 300, 132],
]) {
  t(
    `a weight [${shape[1]}, ${shape[2]}] past the binding limit is taken in windows, to the bit`,
    async () => {
      const small = await openTestGpu({ maxBindingBytes: 70_000 });
      try {
        const [m, n, k] = shape;
        const results = [];
        for (const device of [gpu, small]) {
          const w = device.parameter([n, k], "f32", noise(n * k, 2));
          const b = device.parameter([n], "f32", noise(n, 3));
          const step = device.step("windows");
          const residual = step.upload(noise(m * n, 5), [m, n]);
          const y = step.readFloats(linear(step, step.upload(noise(m * k, 1), [m, k]), w, b, { residual }));
          const dx = step.readFloats(linearInputGradient(step, step.upload(noise(m * n, 4), [m, n]), w));
          await step.submit();
          results.push([await y, await dx]);
          device.release(w);
          device.release(b);
        }
        assert.equal(results[0][0], results[1][0]);
        assertClose("dx", results[1][1], results[0][1], KERNEL_F32);
      } finally {
        small.close();
      }
    },
  );
}

t.run();
