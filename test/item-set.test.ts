import { suite } from "uvu";
import * as assert from "uvu/assert";
import { floatsToHalves, halfToFloat, packHalves } from "../src/files/half.ts";
import type { Gpu } from "../src/gpu/device.ts";
import type { Step } from "../src/gpu/step.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import {
  crossEntropy,
  crossEntropyGradient,
  normalizeRows,
  normalizeRowsGradient,
} from "../src/ops/item-set.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient, dot } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { itemSetWays } from "./item-set-ways.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("item-set");
const gpu = await openTestGpu();
t.after(() => gpu.close());

type Values = ArrayLike<number>;

interface Case {
  readonly queries: number;
  readonly count: number;
  readonly width: number;
  readonly scale: number;
  readonly h: Values;
  readonly items: Values;
  readonly target: Uint32Array<ArrayBuffer>;
  readonly dLosses: Float32Array<ArrayBuffer>;
  readonly bias: Float32Array<ArrayBuffer> | null;
}

function example(queries: number, count: number, width: number, scale: number, biased: boolean): Case {
  return {
    queries,
    count,
    width,
    scale,
    h: noise(queries * width, 1),
    items: noise(count * width, 2),
    target: Uint32Array.from({ length: queries }, (_, q) => (q === 0 ? count - 1 : (q * 37) % count)),
    dLosses: noise(queries, 3),
    bias: biased ? noise(count, 4) : null,
  };
}

/** Losses, log-sum-exps and the gradients of sum(losses * dLosses), in float64. */
function reference(c: Case, h: Values = c.h, items: Values = c.items, bias: Values | null = c.bias) {
  const { queries, count, width, scale } = c;
  const losses = new Float64Array(queries);
  const lse = new Float64Array(queries);
  const dh = new Float64Array(queries * width);
  const dItems = new Float64Array(count * width);
  const dBias = new Float64Array(count);
  const logits = new Float64Array(count);
  for (let q = 0; q < queries; q++) {
    for (let i = 0; i < count; i++) {
      let sum = 0;
      for (let k = 0; k < width; k++) sum += h[q * width + k] * items[i * width + k];
      logits[i] = scale * sum + (bias ? bias[i] : 0);
    }
    const most = logits.reduce((a, b) => Math.max(a, b));
    lse[q] = most + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - most), 0));
    losses[q] = lse[q] - logits[c.target[q]];
    for (let i = 0; i < count; i++) {
      const d = c.dLosses[q] * (Math.exp(logits[i] - lse[q]) - (i === c.target[q] ? 1 : 0));
      dBias[i] += d;
      for (let k = 0; k < width; k++) {
        dh[q * width + k] += scale * d * items[i * width + k];
        dItems[i * width + k] += scale * d * h[q * width + k];
      }
    }
  }
  return { losses, lse, dh, dItems, dBias };
}

/** Everything the GPU computes for a case, dItems and dBias added to what `start` puts there (or written over it). */
async function compute(device: Gpu, c: Case, items: Tensor, start: number, accumulate: boolean) {
  const step = device.step("item set");
  const h = step.upload(Float32Array.from(c.h), [c.queries, c.width]);
  const target = step.upload(c.target);
  const bias = c.bias && step.upload(c.bias);
  const { losses, lse } = crossEntropy(step, h, items, target, c.scale, bias);
  const dLosses = step.upload(c.dLosses);
  const dItems = device.parameter([c.count, c.width], "f32", new Float32Array(c.count * c.width).fill(start));
  const dBias = c.bias && device.parameter([c.count], "f32", new Float32Array(c.count).fill(start));
  const alone = crossEntropyGradient(step, h, items, target, lse, dLosses, c.scale, bias);
  const into = { dItems, dBias, accumulate };
  const dh = crossEntropyGradient(step, h, items, target, lse, dLosses, c.scale, bias, into);
  const none = Promise.resolve(new Float32Array(0));
  const reads = [losses, lse, alone, dh, dItems].map((tensor) => step.readFloats(tensor));
  const last = dBias ? step.readFloats(dBias) : none;
  await step.submit();
  const [a, b, dhAlone, d, e] = await Promise.all(reads);
  const result = { losses: a, lse: b, dhAlone, dh: d, dItems: e, dBias: await last };
  device.release(dItems);
  if (dBias) device.release(dBias);
  return result;
}

function upload(device: Gpu, c: Case): Tensor {
  return device.parameter([c.count, c.width], "f32", Float32Array.from(c.items));
}

/** The case with items rounded to f16, and those as stored. */
function rounded(c: Case): { c: Case; halves: Uint32Array<ArrayBuffer> } {
  const bits = floatsToHalves(Float32Array.from(c.items)).halves;
  return {
    c: { ...c, items: Float64Array.from(bits, halfToFloat) },
    halves: Uint32Array.from(packHalves(bits)),
  };
}

t("the reference is right: finite differences", () => {
  const c = example(3, 6, 4, 2, true);
  const { dh, dItems, dBias } = reference(c);
  const loss = (h: Values, items: Values, bias: Values) =>
    dot(reference(c, h, items, bias).losses, c.dLosses);
  assertGradient("dh", (x) => loss(x, c.items, c.bias!), c.h, dh);
  assertGradient("dItems", (x) => loss(c.h, x, c.bias!), c.items, dItems);
  assertGradient("dBias", (x) => loss(c.h, c.items, x), c.bias!, dBias);
});

for (const { name: way, open } of await itemSetWays()) {
  const gpu = await open();
  t.after(() => gpu.close());
  for (const [queries, count, width, scale, biased] of [
    [1, 1, 1, 1, false],
    [1, 1, 5, 3, true],
    [3, 7, 5, 20, false],
    [17, 65, 33, 2, true],
    [33, 131, 16, 1, true],
    [2, 1030, 8, 20, false],
    [70, 402, 24, 0.5, true],
    [9, 131, 17, 1, true],
    [131, 259, 67, 2, true],
  ] as const) {
    t(
      `${way}: cross-entropy and gradients, B ${queries} I ${count} d ${width}${biased ? " with bias" : ""}`,
      async () => {
        const c = example(queries, count, width, scale, biased);
        const expected = reference(c);
        const items = upload(gpu, c);
        const found = await compute(gpu, c, items, 0.5, true);
        assertClose("losses", found.losses, expected.losses, KERNEL_F32);
        assertClose("lse", found.lse, expected.lse, KERNEL_F32);
        assertClose("dh", found.dh, expected.dh, KERNEL_F32);
        assert.equal(found.dhAlone, found.dh, "dh does not depend on whether the items train");
        const added = expected.dItems.map((x) => x + 0.5);
        assertClose("dItems, added", found.dItems, added, KERNEL_F32);
        if (biased)
          assertClose(
            "dBias, added",
            found.dBias,
            expected.dBias.map((x) => x + 0.5),
            KERNEL_F32,
          );
        const again = await compute(gpu, c, items, 99, false);
        assertClose("dItems, overwritten", again.dItems, expected.dItems, KERNEL_F32);
        if (biased) assertClose("dBias, overwritten", again.dBias, expected.dBias, KERNEL_F32);
        gpu.release(items);
      },
    );
  }

  t(`${way}: large logits neither overflow nor lose the loss`, async () => {
    const c = { ...example(5, 300, 8, 1, false), scale: 300 };
    const items = upload(gpu, c);
    const found = await compute(gpu, c, items, 0, false);
    const expected = reference(c);
    assertClose("losses", found.losses, expected.losses, KERNEL_F32);
    gpu.release(items);
  });

  t(`${way}: f16 items, many queries and an odd end`, async () => {
    const { c, halves } = rounded(example(9000, 128 + 3, 16, 2, true));
    const expected = reference(c);
    const items = gpu.parameter([c.count, c.width], "f16", halves);
    const found = await compute(gpu, c, items, 0, false);
    gpu.release(items);
    for (const name of ["losses", "lse", "dh", "dItems", "dBias"] as const)
      assertClose(name, found[name], expected[name], KERNEL_F32);
  });

  for (const [dtype, width] of [
    ["f32", 31],
    ["f16", 31],
    ["f32", 32],
    ["f16", 32],
  ] as const) {
    t(
      `${way}: ${dtype} items of width ${width} in windows of the binding limit give the same as items in one`,
      async () => {
        const { c, halves } = rounded(example(6, 700, width, 1, true));
        const small = await open({ maxBindingBytes: 35_000 });
        const results = [];
        try {
          for (const device of [gpu, small]) {
            const data = dtype === "f16" ? halves : Float32Array.from(c.items);
            const items = device.parameter([c.count, c.width], dtype, data);
            results.push(await compute(device, c, items, 0, false));
            device.release(items);
          }
        } finally {
          small.close();
        }
        for (const name of ["losses", "lse", "dh", "dItems", "dBias"] as const)
          assertClose(name, results[1][name], results[0][name], KERNEL_F32);
      },
    );
  }

  t(`${way}: a run repeats bit for bit`, async () => {
    const c = example(130, 260, 20, 5, true);
    const items = upload(gpu, c);
    assert.equal(await compute(gpu, c, items, 0, false), await compute(gpu, c, items, 0, false));
    gpu.release(items);
  });

  t(`${way}: memory is bounded: no matrix of all queries by all items`, async () => {
    const device = await open();
    try {
      const before = device.buffers.bytes;
      const [queries, count] = [1024, 6000];
      const items = device.parameter([count, 4], "f32", noise(count * 4, 1));
      const step = device.step("memory");
      const h = step.upload(noise(queries * 4, 2), [queries, 4]);
      const target = step.upload(new Uint32Array(queries));
      const { lse } = crossEntropy(step, h, items, target, 1);
      step.free(crossEntropyGradient(step, h, items, target, lse, step.upload(noise(queries, 3)), 1));
      await step.submit();
      const used = device.buffers.bytes - before;
      assert.ok(used < (queries * count * 4) / 2, `${used} bytes`);
    } finally {
      device.close();
    }
  });
}

function normalized(x: Values, width: number): Float64Array {
  const y = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += width) {
    let sum = 0;
    for (let k = 0; k < width; k++) sum += x[row + k] ** 2;
    if (Math.sqrt(sum) < 1e-12) continue;
    for (let k = 0; k < width; k++) y[row + k] = x[row + k] / Math.sqrt(sum);
  }
  return y;
}

for (const [rows, width] of [
  [1, 1],
  [3, 7],
  [5, 64],
  [130, 13],
  [2, 769],
]) {
  t(`normalised rows and their gradient, ${rows} x ${width}`, async () => {
    const x = noise(rows * width, 1, 3);
    const dy = noise(rows * width, 2);
    const record = (step: Step) => {
      const { y, norm } = normalizeRows(step, step.upload(x, [rows, width]));
      const dx = normalizeRowsGradient(step, step.upload(dy, [rows, width]), y, norm);
      return [y, norm, dx].map((tensor) => step.readFloats(tensor));
    };
    const step = gpu.step("normalise");
    const reads = record(step);
    await step.submit();
    const [y, norm, dx] = await Promise.all(reads);
    assertClose("y", y, normalized(x, width), KERNEL_F32);
    const exact = Float64Array.from({ length: rows }, (_, r) =>
      Math.hypot(...x.subarray(r * width, (r + 1) * width)),
    );
    assertClose("norm", norm, exact, KERNEL_F32);
    const expected = new Float64Array(x.length);
    const unit = normalized(x, width);
    for (let r = 0; r < rows; r++) {
      const row = (v: Values) => Array.from({ length: width }, (_, k) => v[r * width + k]);
      const along = dot(row(unit), row(dy));
      for (let k = r * width; k < (r + 1) * width; k++) expected[k] = (dy[k] - unit[k] * along) / exact[r];
    }
    assertClose("dx", dx, expected, KERNEL_F32);
    if (x.length < 1000) assertGradient("dx", (z) => dot(normalized(z, width), dy), x, expected);
  });
}

t("a zero row stays zero, with a zero gradient; identical rows stay identical", async () => {
  const width = 9;
  const x = new Float32Array(3 * width);
  x.set(noise(width, 5), width);
  x.set(noise(width, 5), 2 * width);
  const step = gpu.step("normalise");
  const { y, norm } = normalizeRows(step, step.upload(x, [3, width]));
  const dx = normalizeRowsGradient(step, step.upload(noise(3 * width, 6), [3, width]), y, norm);
  const reads = [y, norm, dx].map((tensor) => step.readFloats(tensor));
  await step.submit();
  const [ys, norms, dxs] = await Promise.all(reads);
  assert.equal(ys.subarray(0, width), new Float32Array(width));
  assert.equal(dxs.subarray(0, width), new Float32Array(width));
  assert.is(norms[0], 0);
  assert.equal(ys.subarray(width, 2 * width), ys.subarray(2 * width));
});

t.run();
