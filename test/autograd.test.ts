import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ADAM, Adam } from "../src/autograd/adam.ts";
import { add, dropout, gelu, layerNorm, linear, meanRows } from "../src/autograd/functions.ts";
import { itemCrossEntropy, normalize } from "../src/autograd/loss.ts";
import { Parameters } from "../src/autograd/parameters.ts";
import { Tape, type Variable } from "../src/autograd/tape.ts";
import { packed } from "../src/ops/packed.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient, dot } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { FINITE_DIFFERENCE, KERNEL_F32 } from "./tolerances.ts";

const t = suite("autograd");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** A small network with a shared input, a residual, a stacked layer and the item loss. */
function network(seed: number) {
  const p = new Parameters();
  const initial = { normal: 0.5 };
  const w1 = p.declareStacked([
    { name: "a.weight", shape: [6, 5], initial },
    { name: "b.weight", shape: [3, 5], initial },
  ]);
  const b1 = p.declare("bias", [9], initial);
  const gain = p.declare("norm.weight", [9], initial);
  const shift = p.declare("norm.bias", [9], initial);
  const w2 = p.declare("w2", [9, 9], initial);
  p.build(gpu, seed);
  const items = noise(7 * 9, 8);
  const forward = (tape: Tape, x: Variable) => {
    const hidden = gelu(tape, linear(tape, x, w1, b1), "none");
    const again = linear(tape, layerNorm(tape, hidden, gain, shift, 1e-5), w2, null);
    return normalize(tape, add(tape, add(tape, again, hidden), hidden));
  };
  const run = async (gradients: boolean) => {
    const step = gpu.step("network");
    const tape = new Tape(step, { gradients, dropout: null });
    const h = forward(tape, tape.constant(step.upload(noise(4 * 5, 9), [4, 5])));
    const side = { items: step.upload(items, [7, 9]), bias: null, trained: null };
    const loss = itemCrossEntropy(tape, h, side, step.upload(Uint32Array.of(0, 3, 6, 3)), 4);
    const read = step.readFloats(loss);
    p.clearGradients();
    tape.backward();
    p.settleGradients(step);
    await step.submit();
    return (await read)[0] / 4;
  };
  return { p, run };
}

t("the mean row of ragged sequences, and its gradient", async () => {
  for (const [lengths, width] of [
    [[1], 1],
    [[3, 1, 7], 5],
    [[2, 130, 1, 31], 67],
    [[5, 5], 64],
  ] as const) {
    const total = lengths.reduce((sum, length) => sum + length, 0);
    const x = noise(total * width, 1);
    const dy = noise(lengths.length * width, 2);
    const step = gpu.step("mean rows");
    const tape = new Tape(step, { gradients: true, dropout: null });
    const leaf = tape.leaf(step.upload(x, [total, width]));
    const y = meanRows(tape, leaf, packed(step, lengths));
    assert.equal(y.value.shape, [lengths.length, width]);
    const values = step.readFloats(y.value);
    tape.loss([], () => tape.give(y, step.upload(dy, y.value.shape)));
    tape.backward();
    const gradient = step.readFloats(leaf.grad!);
    await step.submit();
    const mean = (v: ArrayLike<number>) => {
      const out = new Float64Array(dy.length);
      let row = 0;
      lengths.forEach((length, s) => {
        for (let i = 0; i < length; i++, row++)
          for (let c = 0; c < width; c++) out[s * width + c] += v[row * width + c] / length;
      });
      return out;
    };
    assertClose("mean", await values, mean(x), KERNEL_F32);
    const dx = Float64Array.from(await gradient);
    const sequence = lengths.flatMap((length, s) => new Array<number>(length).fill(s));
    const expected = dx.map((_, i) => {
      const s = sequence[Math.floor(i / width)];
      return dy[s * width + (i % width)] / lengths[s];
    });
    assertClose("dx", dx, expected, KERNEL_F32);
    if (total < 20) assertGradient("dx", (v) => dot(mean(v), dy), x, expected);
  }
});

t("every parameter's gradient agrees with finite differences", async () => {
  const { p, run } = network(3);
  await run(true);
  const gradient = await gpu.read(p.gradients);
  const values = (await gpu.read(p.values)) as Float32Array<ArrayBuffer>;
  const numeric = new Float32Array(values.length);
  const step = 1e-2;
  for (const parameter of p.list) {
    const start = parameter.value.offset / 4;
    for (let i = start; i < start + parameter.size; i += 3) {
      const shifted = values.slice();
      shifted[i] = values[i] + step;
      gpu.write(p.values, shifted);
      const up = await run(false);
      shifted[i] = values[i] - step;
      gpu.write(p.values, shifted);
      numeric[i] = (up - (await run(false))) / (2 * step);
    }
  }
  gpu.write(p.values, values);
  const checked = numeric.map((v, i) => (v === 0 ? gradient[i] * 0 : v));
  const picked = gradient.map((v, i) => (numeric[i] === 0 ? 0 : v));
  assert.ok(numeric.some((v) => Math.abs(v) > 1e-2));
  assertClose("gradient", picked as Float32Array, checked, FINITE_DIFFERENCE);
  p.release(gpu);
});

t("a second backward pass adds to the gradients of the first", async () => {
  const { p, run } = network(4);
  await run(true);
  const once = await gpu.read(p.gradients);
  for (const parameter of p.list) parameter.fresh = false;
  const clear = p.clearGradients;
  p.clearGradients = () => {};
  await run(true);
  p.clearGradients = clear;
  assertClose(
    "gradient",
    await gpu.read(p.gradients),
    (once as Float32Array).map((v) => 2 * v),
    KERNEL_F32,
  );
  p.release(gpu);
});

t("the same run gives the same bits", async () => {
  const results = [];
  for (let i = 0; i < 2; i++) {
    const { p, run } = network(5);
    await run(true);
    results.push(await gpu.read(p.gradients));
    p.release(gpu);
  }
  assert.equal(results[0], results[1]);
});

t("dropout scales what it keeps, masks the gradient alike, and differs by site", async () => {
  const step = gpu.step("dropout");
  const tape = new Tape(step, { gradients: true, dropout: { seed: 1, step: 2 } });
  const n = 4096;
  const x = tape.leaf(step.upload(new Float32Array(n).fill(1), [n]));
  const first = dropout(tape, x, 0.25);
  const second = dropout(tape, x, 0.25);
  const values = [step.readFloats(first.value), step.readFloats(second.value)];
  first.grad = step.upload(new Float32Array(n).fill(1), [n]);
  tape.backward();
  const gradient = step.readFloats(x.grad!);
  await step.submit();
  const [a, b] = await Promise.all(values);
  assert.equal(await gradient, a);
  assert.not.equal(a, b);
  const kept = a.filter((v) => v !== 0);
  assert.ok(kept.every((v) => Math.abs(v - 1 / 0.75) < 1e-6));
  assert.ok(Math.abs(kept.length / n - 0.75) < 0.05, `kept ${kept.length} of ${n}`);
});

t("parameters cut into named components and join again", async () => {
  const { p } = network(6);
  const flat = (await gpu.read(p.values)) as Float32Array<ArrayBuffer>;
  const named = p.split(flat);
  assert.equal([...named.keys()], ["a.weight", "b.weight", "bias", "norm.weight", "norm.bias", "w2"]);
  assert.equal(
    p.join((name) => named.get(name), "here"),
    flat,
  );
  named.set("w2", { shape: [9, 8], data: new Float32Array(72) });
  assert.throws(
    () => p.join((name) => named.get(name), "here"),
    /here: tensor w2 has shape \[9,8\], expected \[9,9\]/,
  );
  named.delete("bias");
  assert.throws(() => p.join((name) => named.get(name), "here"), /here: tensor bias is missing/);
  p.release(gpu);
});

t("Adam's first update moves every value by the learning rate, against its gradient", async () => {
  const { p, run } = network(7);
  const before = (await gpu.read(p.values)) as Float32Array;
  await run(true);
  const gradient = await gpu.read(p.gradients);
  const adam = new Adam(gpu, p, ADAM);
  for (const parameter of p.list) parameter.fresh = false;
  const step = gpu.step("adam");
  adam.update(step, 0.125);
  await step.submit();
  const after = (await gpu.read(p.values)) as Float32Array;
  const moved = after.map((v, i) => v - before[i]);
  const expected = Float32Array.from(gradient, (g) => (g === 0 ? 0 : (-0.125 * g) / (Math.abs(g) + 1e-8)));
  assertClose("update", moved, expected, 1e-4);
  adam.release();
  p.release(gpu);
});

t.run();
