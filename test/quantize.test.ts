/**
 * Quantised weights: the layout and rounding on the host, then what reads them on the GPU other than the product kernels
 * themselves (test/product-storage.test.ts): linear layers past the binding limit, their input gradient, the embedding table.
 */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { HALF_MAX, halfToFloat } from "../src/files/half.ts";
import { bytesOf, rowBytes } from "../src/gpu/tensor.ts";
import { quantizeRows } from "../src/llm/quantize.ts";
import { packWeights } from "../src/llm/weight-stream.ts";
import { embed } from "../src/ops/embedding.ts";
import { linear, linearInputGradient } from "../src/ops/linear.ts";
import { assertClose, noise } from "./close.ts";
import { dequantize } from "./dequantize.ts";
import { assertGradient, dot } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("quantised weights");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const TYPES = [
  ["int8", 8],
  ["int4", 4],
] as const;
/** [rows, width]: one element, less than a group, a group, one more, two groups and a pair of scales filled, primes. */
const SHAPES = [
  [1, 1],
  [3, 7],
  [2, 48],
  [5, 64],
  [2, 65],
  [3, 128],
  [2, 129],
  [4, 172],
  [7, 331],
];

t("bytes: whole words of codes and of scales a row", () => {
  assert.is(rowBytes(1, "int4"), 8);
  assert.is(rowBytes(8, "int4"), 8);
  assert.is(rowBytes(9, "int4"), 12);
  assert.is(rowBytes(48, "int8"), 48 + 4);
  assert.is(rowBytes(64, "int4"), 32 + 4);
  assert.is(rowBytes(128, "int4"), 64 + 4);
  assert.is(rowBytes(129, "int4"), 68 + 8);
  assert.is(rowBytes(4096, "int4"), 2048 + 128);
  assert.is(bytesOf([10, 4096], "int8"), 10 * (4096 + 128));
  assert.is(bytesOf([3, 5], "f16"), 30);
  assert.is(bytesOf([], "f32"), 4);
});

for (const [type, bits] of TYPES) {
  t(`${type}: every value is as near as its group's steps allow, the largest nearest`, () => {
    for (const [rows, width] of SHAPES) {
      // Groups of very different magnitude.
      const values = noise(rows * width, 7).map((v, i) => v * 2 ** -((i >> 5) % 9));
      const { words, overflow } = quantizeRows(values, width, type);
      assert.is(overflow, -1);
      assert.is(4 * words.length, bytesOf([rows, width], type));
      const read = dequantize(words, rows, width, bits);
      for (let i = 0; i < values.length; i++) {
        const column = i % width;
        const first = i - (column % 64);
        const group = values.subarray(first, Math.min(first + 64, i - column + width));
        const largest = Math.max(...group.map(Math.abs));
        // A step is the scale / Q; the scale is the largest magnitude, rounded outward by at most 2^-10 of itself.
        const step = (largest / 2 ** (bits - 1)) * (1 + 2 ** -10);
        // The value opposite to the largest has one code less: up to a whole step.
        const error = Math.abs(read[i] - values[i]);
        const opposite = Math.abs(values[i]) > largest - step;
        assert.ok(
          error <= (opposite ? 1 : 0.5) * step * 1.000001,
          `[${rows}, ${width}] ${i}: ${error} of ${step}`,
        );
        if (Math.abs(values[i]) === largest)
          assert.ok(error <= 2 ** -10 * largest || group.indexOf(values[i]) !== column % 64);
      }
    }
  });

  t(`${type}: zero groups, ties, signs, tiny and huge values`, () => {
    const zero = quantizeRows(new Float32Array(70), 70, type);
    assert.equal(zero.words, new Uint32Array(zero.words.length));

    const read = (values: Float32Array) => dequantize(quantizeRows(values, 64, type).words, 1, 64, bits);
    const values = noise(64, 3);
    assert.equal(
      read(values.map((v) => -v)),
      read(values).map((v) => -v),
    );
    assert.equal(quantizeRows(values, 64, type), quantizeRows(values, 64, type));

    // With a scale of 1 the codes are Q v: ties go to the even code, +1 is cut to Q - 1, -1 is held.
    const q = 2 ** (bits - 1);
    const row = new Float32Array(64);
    row.set([-1, 1, 0.5 / q, 1.5 / q, -2.5 / q, 3 / q]);
    const codes = Array.from(read(row).subarray(0, 6), (v) => v * q);
    assert.equal(codes, [-q, q - 1, 0, 2, -2, 3]);

    // The smallest f16 is 2^-24: what lies below it is read with its resolution, not lost.
    const tiny = new Float32Array(64).fill(1e-9).fill(2 ** -25, 0, 1);
    assert.ok(read(tiny).every((v, i) => Math.abs(v - tiny[i]) <= 2 ** -25));
    const large = new Float32Array(128).fill(1).fill(-HALF_MAX, 70, 71);
    assert.is(quantizeRows(large, 128, type).overflow, -1);
    assert.is(dequantize(quantizeRows(large, 128, type).words, 1, 128, bits)[70], -HALF_MAX);
    large[70] = 65510;
    assert.is(quantizeRows(large, 128, type).overflow, 70);
  });

  t(`${type}: scales are f16 rounded outward, so that nothing is cut off but +Q`, () => {
    for (const m of [1 / 3, 0.1, 1e-6, 3e-8]) {
      const row = new Float32Array(64).fill(m / 3).fill(m, 5, 6);
      const { words } = quantizeRows(row, 64, type);
      const scale = halfToFloat(words[words.length - 1]);
      assert.ok(scale <= -row[5], `${m}: ${scale}`);
      assert.is(words[words.length - 1] >>> 16, 0, "what is left of the last word is zero");
    }
  });
}

/** y = x W^T in float64. x [m, k], w [n, k]. */
function forward(x: ArrayLike<number>, w: ArrayLike<number>, [m, n, k]: readonly number[]): Float64Array {
  const y = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      for (let l = 0; l < k; l++) y[i * n + j] += x[i * k + l] * w[j * k + l];
    }
  }
  return y;
}

/** dx = dy W in float64. dy [m, n], w [n, k]. */
function backward(dy: ArrayLike<number>, w: ArrayLike<number>, [m, n, k]: readonly number[]): Float64Array {
  const dx = new Float64Array(m * k);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      for (let l = 0; l < k; l++) dx[i * k + l] += dy[i * n + j] * w[j * k + l];
    }
  }
  return dx;
}

t("the reference input gradient is the derivative of the reference product of dequantised weights", () => {
  const shape = [2, 3, 70];
  const [x, dy] = [noise(140, 1), noise(6, 2)];
  for (const [type, bits] of TYPES) {
    const w = dequantize(quantizeRows(noise(210, 3), 70, type).words, 3, 70, bits);
    assertGradient("dx", (at) => dot(forward(at, w, shape), dy), x, backward(dy, w, shape));
  }
});

for (const [type, bits] of TYPES) {
  for (const shape of [
    [5, 600, 129],
    [9, 600, 132],
  ]) {
    t(
      `${type}: a weight [${shape.slice(1)}] in windows of the binding limit, with bias and residual`,
      async () => {
        const [m, n, k] = shape;
        const small = await openTestGpu({ maxBindingBytes: 30_000 });
        const words = packWeights(noise(n * k, 2), k, type) as Uint32Array<ArrayBuffer>;
        const w = dequantize(words, n, k, bits);
        const [x, dy, bias, residual] = [noise(m * k, 1), noise(m * n, 4), noise(n, 3), noise(m * n, 5)];
        const results = [];
        try {
          for (const device of [gpu, small]) {
            const weight = device.parameter([n, k], type, words);
            assert.is(weight.bytes > device.maxBindingBytes, device === small);
            const b = device.parameter([n], "f32", bias);
            const step = device.step("windows");
            const added = { residual: step.upload(residual, [m, n]) };
            const y = step.readFloats(linear(step, step.upload(x, [m, k]), weight, b, added));
            const dx = step.readFloats(linearInputGradient(step, step.upload(dy, [m, n]), weight));
            await step.submit();
            results.push([await y, await dx]);
            device.release(weight);
            device.release(b);
          }
        } finally {
          small.close();
        }
        const expected = forward(x, w, shape).map((v, i) => v + bias[i % n] + residual[i]);
        assertClose("y", results[0][0], expected, KERNEL_F32);
        assert.equal(results[0][0], results[1][0]);
        assertClose("dx", results[0][1], backward(dy, w, shape), KERNEL_F32);
        assertClose("dx in windows", results[1][1], backward(dy, w, shape), KERNEL_F32);
      },
    );
  }

  for (const [rows, width] of SHAPES) {
    t(`${type}: rows of an embedding table [${rows}, ${width}]`, async () => {
      const words = packWeights(noise(rows * width, 6), width, type) as Uint32Array<ArrayBuffer>;
      const expected = Float32Array.from(dequantize(words, rows, width, bits));
      const ids = Uint32Array.from({ length: 2 * rows }, (_, i) => (i * 5) % rows);
      const table = gpu.parameter([rows, width], type, words);
      const step = gpu.step("embed");
      const y = step.readFloats(embed(step, table, step.upload(ids)));
      await step.submit();
      gpu.release(table);
      for (const [t, id] of ids.entries()) {
        const row = (await y).slice(t * width, (t + 1) * width);
        assert.equal(row, expected.slice(id * width, (id + 1) * width));
      }
    });
  }
}

t("an embedding table in windows of the binding limit", async () => {
  const [rows, width] = [1000, 70];
  const small = await openTestGpu({ maxBindingBytes: 30_000 });
  try {
    const words = packWeights(noise(rows * width, 6), width, "int4") as Uint32Array<ArrayBuffer>;
    const expected = Float32Array.from(dequantize(words, rows, width, 4));
    const table = small.parameter([rows, width], "int4", words);
    assert.ok(table.bytes > small.maxBindingBytes);
    const step = small.step("embed");
    const ids = Uint32Array.from({ length: 40 }, (_, i) => (i * 977) % rows);
    const y = step.readFloats(embed(step, table, step.upload(ids)));
    await step.submit();
    for (const [t, id] of ids.entries()) {
      const row = (await y).slice(t * width, (t + 1) * width);
      assert.equal(row, expected.slice(id * width, (id + 1) * width));
    }
  } finally {
    small.close();
  }
});

t("quantised rows are not cut, nor given another width", () => {
  const tensor = gpu.parameter([6, 70], "int4");
  assert.is(tensor.bytes, 6 * rowBytes(70, "int4"));
  assert.is(tensor.reshape([2, 3, 70]).bytes, tensor.bytes);
  assert.throws(() => tensor.reshape([70, 6]), /cannot reshape \[6,70\] of int4/);
  assert.throws(() => tensor.reshape([420]).rows(0, 64), /cannot reshape/);
  gpu.release(tensor);
});

t.run();
