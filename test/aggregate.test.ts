import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type AggregateShape, aggregate, aggregateGradient } from "../src/ops/aggregate.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient, dot } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("aggregate");
const gpu = await openTestGpu();
t.after(() => gpu.close());

type Values = ArrayLike<number>;

function reference(q: Values, gates: Values, dOut: Values, { batch, active, rows, width }: AggregateShape) {
  const block = rows * width;
  const out = new Float64Array(batch * block);
  const dq = new Float64Array(batch * active * block);
  const dGates = new Float64Array(batch * active);
  for (let s = 0; s < batch * active; s++) {
    const user = Math.floor(s / active);
    for (let i = 0; i < block; i++) {
      out[user * block + i] += gates[s] * q[s * block + i];
      dq[s * block + i] = gates[s] * dOut[user * block + i];
      dGates[s] += q[s * block + i] * dOut[user * block + i];
    }
  }
  return { out, dq, dGates };
}

async function compute(
  q: Float32Array<ArrayBuffer>,
  g: Float32Array<ArrayBuffer>,
  d: Float32Array<ArrayBuffer>,
  shape: AggregateShape,
) {
  const { batch, active, rows, width } = shape;
  const step = gpu.step("aggregate");
  const qt = step.upload(q, [batch * active * rows, width]);
  const gt = step.upload(g, [batch, active]);
  const out = aggregate(step, qt, gt, shape);
  const { dq, dGates } = aggregateGradient(step, step.upload(d, [batch * rows, width]), qt, gt, shape);
  assert.equal(out.shape, [batch * rows, width]);
  assert.equal(dq.shape, qt.shape);
  assert.equal(dGates.shape, gt.shape);
  const reads = [out, dq, dGates].map((x) => step.readFloats(x));
  await step.submit();
  return Promise.all(reads);
}

for (const [batch, active, rows, width] of [
  [1, 1, 1, 1],
  [1, 3, 1, 7],
  [3, 2, 5, 24],
  [2, 3, 7, 13],
  [5, 1, 32, 19],
  [2, 8, 32, 48],
]) {
  t(`aggregate and its gradient, B ${batch} k ${active} L ${rows} d_m ${width}`, async () => {
    const shape = { batch, active, rows, width };
    const q = noise(batch * active * rows * width, 1);
    const g = noise(batch * active, 2);
    const d = noise(batch * rows * width, 3);
    const expected = reference(q, g, d, shape);
    const found = await compute(q, g, d, shape);
    assertClose("sum", found[0], expected.out, KERNEL_F32);
    assertClose("dq", found[1], expected.dq, KERNEL_F32);
    assertClose("dGates", found[2], expected.dGates, KERNEL_F32);
    assert.equal(await compute(q, g, d, shape), found, "a run repeats bit for bit");
    if (q.length < 500) {
      assertGradient("dq", (x) => dot(reference(x, g, d, shape).out, d), q, expected.dq);
      assertGradient("dGates", (x) => dot(reference(q, x, d, shape).out, d), g, expected.dGates);
    }
  });
}

t("extents that do not fit are refused", () => {
  const step = gpu.step("refused");
  const q = step.upload(new Float32Array(12), [6, 2]);
  const g = step.upload(new Float32Array(2), [1, 2]);
  assert.throws(() => aggregate(step, q, g, { batch: 1, active: 3, rows: 2, width: 2 }), /cannot aggregate/);
  return step.submit();
});

t.run();
