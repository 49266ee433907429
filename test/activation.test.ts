import { suite } from "uvu";
import * as assert from "uvu/assert";
import { gelu, geluGradient, relu, reluGradient, swiglu, swigluGradient } from "../src/ops/activation.ts";
import { add, axpy, scale } from "../src/ops/elementwise.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("activation");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** erfc in float64: its Taylor series near zero, its continued fraction in the tails. */
function erfc(z: number): number {
  if (z < 0) return 2 - erfc(-z);
  if (z > 27) return 0;
  if (z < 2.5) {
    let term = z;
    let sum = z;
    for (let n = 1; n < 120; n++) {
      term *= (-z * z) / n;
      sum += term / (2 * n + 1);
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let k = 300; k > 0; k--) fraction = k / 2 / (z + fraction);
  return Math.exp(-z * z) / (z + fraction) / Math.sqrt(Math.PI);
}

type Approximation = "tanh" | "none";
const APPROXIMATIONS: Approximation[] = ["tanh", "none"];
const C = Math.sqrt(2 / Math.PI);

function referenceGelu(x: number, approximate: Approximation): number {
  if (approximate === "none") return 0.5 * x * erfc(-x / Math.SQRT2);
  return 0.5 * x * (1 + Math.tanh(C * (x + 0.044715 * x ** 3)));
}

function referenceSlope(x: number, approximate: Approximation): number {
  if (approximate === "none") {
    return 0.5 * erfc(-x / Math.SQRT2) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
  }
  const tanh = Math.tanh(C * (x + 0.044715 * x ** 3));
  return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * C * (1 + 3 * 0.044715 * x * x);
}

t("the float64 erfc has its tabulated values", () => {
  // erfc(1) and erfc(3) from any table (DLMF 7.23), one a branch of the reference.
  assert.ok(Math.abs(erfc(1) - 0.15729920705028513) < 1e-15);
  assert.ok(Math.abs(erfc(3) / 2.2090496998585441e-5 - 1) < 1e-14);
});

for (const approximate of APPROXIMATIONS) {
  t(`GELU (${approximate}): the reference gradient is the derivative`, () => {
    const x = [-6, -2.1, -1, -1e-3, 0, 0.3, 1, 2.7, 8];
    const slopes = x.map((v) => referenceSlope(v, approximate));
    assertGradient("slope", (x) => x.reduce((s, v) => s + referenceGelu(v, approximate), 0), x, slopes);
  });

  for (const [n, range] of [
    [0, 1],
    [1, 1],
    [255, 1],
    [768, 3],
    [5003, 6],
    [5004, 6],
    [1009, 0.01],
    [1009, 60],
  ]) {
    t(`GELU (${approximate}) of ${n} values within ${range}`, async () => {
      const [x, dy] = [noise(n, 1, range), noise(n, 2)];
      const once = async () => {
        const step = gpu.step("gelu");
        const xt = step.upload(x);
        const reads = [gelu(step, xt, approximate), geluGradient(step, step.upload(dy), xt, approximate)];
        const values = reads.map((tensor) => step.readFloats(tensor));
        await step.submit();
        return Promise.all(values);
      };
      const [y, dx] = await once();
      const expected = Array.from(x, (v) => referenceGelu(v, approximate));
      const slopes = Array.from(x, (v, i) => dy[i] * referenceSlope(v, approximate));
      assertClose("y", y, expected, KERNEL_F32);
      assertClose("dx", dx, slopes, KERNEL_F32);
      assert.equal(await once(), [y, dx], "two runs differ");
    });
  }

  t(`GELU (${approximate}) far out: x or zero, slope one or zero, never NaN`, async () => {
    const x = new Float32Array([-1e30, -3e4, -50, -40, 40, 50, 3e4, 1e30]);
    const step = gpu.step("gelu");
    const xt = step.upload(x);
    const y = step.readFloats(gelu(step, xt, approximate));
    const dx = step.readFloats(geluGradient(step, step.upload(x.map(() => 1)), xt, approximate));
    await step.submit();
    const limits = await y;
    x.forEach((v, i) => {
      // Relative to x: the cut tail of 1e-38 may still be multiplied by 1e30.
      assert.ok(Math.abs(limits[i] - Math.max(v, 0)) <= 1e-7 * Math.abs(v), `gelu(${v}) = ${limits[i]}`);
    });
    assertClose("dx", await dx, [0, 0, 0, 0, 1, 1, 1, 1], KERNEL_F32);
  });
}

for (const n of [0, 1, 255, 5003, 5004]) {
  t(`ReLU of ${n} values and its gradient, to the bit`, async () => {
    const [x, dy] = [noise(n, 1), noise(n, 2)];
    if (n > 2) x[1] = 0;
    const step = gpu.step("relu");
    const y = relu(step, step.upload(x));
    const reads = [y, reluGradient(step, step.upload(dy), y)].map((tensor) => step.readFloats(tensor));
    await step.submit();
    assert.equal(
      await reads[0],
      x.map((v) => (v < 0 ? 0 : v)),
    );
    assert.equal(
      await reads[1],
      dy.map((v, i) => (x[i] > 0 ? v : 0)),
    );
  });
}

const silu = (g: number) => g / (1 + Math.exp(-g));

function referenceSwiglu(gateUp: ArrayLike<number>, rows: number, width: number): Float64Array {
  return new Float64Array(rows * width).map((_, i) => {
    const at = Math.floor(i / width) * 2 * width + (i % width);
    return silu(gateUp[at]) * gateUp[at + width];
  });
}

function referenceSwigluGradient(dy: ArrayLike<number>, gateUp: ArrayLike<number>, width: number) {
  const gradient = new Float64Array(gateUp.length);
  for (let i = 0; i < dy.length; i++) {
    const at = Math.floor(i / width) * 2 * width + (i % width);
    const s = 1 / (1 + Math.exp(-gateUp[at]));
    gradient[at] = dy[i] * gateUp[at + width] * s * (1 + gateUp[at] * (1 - s));
    gradient[at + width] = dy[i] * gateUp[at] * s;
  }
  return gradient;
}

t("SwiGLU: the reference gradient is the derivative", () => {
  const [gateUp, dy] = [noise(20, 1, 3), noise(10, 2)];
  const loss = (x: Float64Array) => referenceSwiglu(x, 2, 5).reduce((s, v, i) => s + v * dy[i], 0);
  assertGradient("dGateUp", loss, gateUp, referenceSwigluGradient(dy, gateUp, 5));
});

for (const [rows, width, range] of [
  [0, 7, 1],
  [1, 1, 1],
  [3, 64, 3],
  [17, 172, 1],
  [5, 769, 8],
  [2, 131, 200],
  [2, 516, 1],
  [3, 2052, 1],
]) {
  t(`SwiGLU [${rows}, ${width}] within ${range}`, async () => {
    const [gateUp, dy] = [noise(rows * 2 * width, 1, range), noise(rows * width, 2)];
    const once = async () => {
      const step = gpu.step("swiglu");
      const fused = step.upload(gateUp, [rows, 2 * width]);
      const y = step.readFloats(swiglu(step, fused));
      const gradient = step.readFloats(swigluGradient(step, step.upload(dy, [rows, width]), fused));
      await step.submit();
      return [await y, await gradient];
    };
    const [y, gradient] = await once();
    assertClose("y", y, referenceSwiglu(gateUp, rows, width), KERNEL_F32);
    assertClose("dGateUp", gradient, referenceSwigluGradient(dy, gateUp, width), KERNEL_F32);
    assert.equal(await once(), [y, gradient], "two runs differ");
  });
}

for (const n of [0, 1, 257, 70_001, 70_004]) {
  t(`sums and multiples of ${n} values, to the bit`, async () => {
    const [a, b] = [noise(n, 1), noise(n, 2)];
    const step = gpu.step("elementwise");
    const [at, bt] = [step.upload(a), step.upload(b)];
    const reads = [add(step, at, bt), add(step, at, at), scale(step, at, -0.5)].map((y) =>
      step.readFloats(y),
    );
    axpy(step, at, bt, 2);
    reads.push(step.readFloats(bt));
    await step.submit();
    const [sum, twice, half, axpied] = await Promise.all(reads);
    assert.equal(
      sum,
      a.map((v, i) => v + b[i]),
    );
    assert.equal(
      twice,
      a.map((v) => 2 * v),
    );
    assert.equal(
      half,
      a.map((v) => -0.5 * v),
    );
    assert.equal(
      axpied,
      b.map((v, i) => v + 2 * a[i]),
    );
  });
}

t("axpy refuses to read the buffer it writes, add refuses different sizes", async () => {
  const step = gpu.step("refused");
  const x = step.upload(noise(8, 1));
  assert.throws(() => axpy(step, x, x, 1), /same buffer/);
  assert.throws(() => add(step, x, step.tensor([7])), /sum of \[8\] and \[7\]/);
  await step.submit();
});

t.run();
