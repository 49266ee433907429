/** Linear layers with weights of their own for every expert, and their gradients. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  expertLinear,
  expertLinearInputGradient,
  expertLinearWeightGradient,
} from "../src/ops/expert-linear.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient, dot } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("expert linear");
const gpu = await openTestGpu();
t.after(() => gpu.close());

interface Shape {
  /** Users, and the experts that each uses. */
  readonly users: number;
  readonly chosen: number;
  /** Whether a user's experts read the same rows. */
  readonly shared: boolean;
  readonly experts: number;
  readonly rows: number;
  readonly inputs: number;
  readonly outputs: number;
}

type Values = ArrayLike<number>;

/** The experts of every sequence: distinct within a user; the last expert is used by nobody where there are enough. */
function choose({ users, chosen, experts }: Shape): Uint32Array<ArrayBuffer> {
  const used = Math.max(chosen, experts - 1);
  return Uint32Array.from(
    { length: users * chosen },
    (_, s) => (3 * Math.floor(s / chosen) + 2 * (s % chosen)) % used,
  );
}

function reference(x: Values, w: Values, b: Values, dy: Values, top: Uint32Array, shape: Shape) {
  const { chosen, shared, rows, inputs, outputs } = shape;
  const share = shared ? chosen : 1;
  const y = new Float64Array(top.length * rows * outputs);
  const dx = new Float64Array(x.length);
  const dw = new Float64Array(w.length);
  const db = new Float64Array(b.length);
  top.forEach((e, s) => {
    for (let l = 0; l < rows; l++) {
      const from = (Math.floor(s / share) * rows + l) * inputs;
      for (let n = 0; n < outputs; n++) {
        const at = (s * rows + l) * outputs + n;
        const row = e * outputs + n;
        y[at] = b[row];
        db[row] += dy[at];
        for (let i = 0; i < inputs; i++) {
          y[at] += x[from + i] * w[row * inputs + i];
          dx[from + i] += dy[at] * w[row * inputs + i];
          dw[row * inputs + i] += dy[at] * x[from + i];
        }
      }
    }
  });
  return { y, dx, dw, db };
}

function inputsOf(shape: Shape) {
  const { users, chosen, shared, experts, rows, inputs, outputs } = shape;
  const sequences = users * chosen;
  return {
    x: noise((shared ? users : sequences) * rows * inputs, 1),
    w: noise(experts * outputs * inputs, 2),
    b: noise(experts * outputs, 3),
    dy: noise(sequences * rows * outputs, 4),
    top: choose(shape),
  };
}

async function compute(shape: Shape, accumulate: boolean) {
  const { users, chosen, shared, experts, rows, inputs, outputs } = shape;
  const { x, w, b, dy, top } = inputsOf(shape);
  const step = gpu.step("expert linear");
  const sequences = { top: step.upload(top, [users, chosen]), rows, share: shared ? chosen : 1 };
  const xt = step.upload(x, [x.length / inputs, inputs]);
  const wt = step.upload(w, [experts * outputs, inputs]);
  const bt = step.upload(b);
  const dyt = step.upload(dy, [dy.length / outputs, outputs]);
  const y = expertLinear(step, xt, wt, bt, outputs, sequences);
  const dx = expertLinearInputGradient(step, dyt, wt, sequences);
  const dWeight = accumulate
    ? step.upload(new Float32Array(w.length).fill(1), wt.shape)
    : step.tensor(wt.shape);
  const dBias = accumulate ? step.upload(new Float32Array(b.length).fill(1)) : step.tensor(bt.shape);
  expertLinearWeightGradient(step, dyt, xt, { dWeight, dBias, accumulate }, sequences);
  assert.equal(y.shape, dyt.shape);
  assert.equal(dx.shape, xt.shape);
  const reads = [y, dx, dWeight, dBias].map((tensor) => step.readFloats(tensor));
  await step.submit();
  return Promise.all(reads);
}

const SHAPES: Shape[] = [
  { users: 1, chosen: 1, shared: true, experts: 1, rows: 1, inputs: 1, outputs: 1 },
  { users: 3, chosen: 2, shared: true, experts: 4, rows: 5, inputs: 7, outputs: 3 },
  { users: 3, chosen: 2, shared: false, experts: 4, rows: 5, inputs: 3, outputs: 7 },
  { users: 2, chosen: 3, shared: true, experts: 3, rows: 33, inputs: 17, outputs: 65 },
  { users: 5, chosen: 1, shared: false, experts: 8, rows: 32, inputs: 64, outputs: 19 },
  { users: 2, chosen: 3, shared: false, experts: 5, rows: 37, inputs: 131, outputs: 16 },
  { users: 7, chosen: 2, shared: true, experts: 3, rows: 4, inputs: 16, outputs: 67 },
];

for (const shape of SHAPES) {
  const { users, chosen, shared, experts, rows, inputs, outputs } = shape;
  const name = `B ${users} k ${chosen} of ${experts}, L ${rows}, ${inputs} to ${outputs}${shared ? ", rows shared" : ""}`;
  t(`layer and gradients, ${name}`, async () => {
    const { x, w, b, dy, top } = inputsOf(shape);
    const expected = reference(x, w, b, dy, top, shape);
    const [y, dx, dw, db] = await compute(shape, false);
    assertClose("y", y, expected.y, KERNEL_F32);
    assertClose("dx", dx, expected.dx, KERNEL_F32);
    assertClose("dW", dw, expected.dw, KERNEL_F32);
    assertClose("db", db, expected.db, KERNEL_F32);
    assert.equal(await compute(shape, false), [y, dx, dw, db], "a run repeats bit for bit");
    const more = await compute(shape, true);
    const plusOne = (values: Float64Array) => values.map((value) => value + 1);
    assertClose("dW added", more[2], plusOne(expected.dw), KERNEL_F32);
    assertClose("db added", more[3], plusOne(expected.db), KERNEL_F32);
    if (w.length + x.length < 200) {
      assertGradient("dx", (v) => dot(reference(v, w, b, dy, top, shape).y, dy), x, expected.dx);
      assertGradient("dW", (v) => dot(reference(x, v, b, dy, top, shape).y, dy), w, expected.dw);
      assertGradient("db", (v) => dot(reference(x, w, v, dy, top, shape).y, dy), b, expected.db);
    }
  });
}

t("an expert that nobody chose has gradient zero", async () => {
  const shape = SHAPES[1];
  const { outputs, inputs } = shape;
  assert.not([...choose(shape)].includes(3));
  const [, , dw, db] = await compute(shape, false);
  assert.equal(dw.slice(3 * outputs * inputs), new Float32Array(outputs * inputs));
  assert.equal(db.slice(3 * outputs), new Float32Array(outputs));
  assert.ok(dw.slice(0, 3 * outputs * inputs).some((value) => value !== 0));
});

t("extents that do not fit are refused", () => {
  const step = gpu.step("refused");
  const top = step.upload(Uint32Array.of(0, 1));
  const [x, w, b] = [step.tensor([4, 3]), step.tensor([10, 3]), step.tensor([10])];
  const layer = (rows: number, outputs: number) =>
    expertLinear(step, x, w, b, outputs, { top, rows, share: 1 });
  layer(2, 5);
  assert.throws(() => layer(3, 5), /is not 2 \/ 1 sequences of 3 rows/);
  assert.throws(() => layer(2, 4), /not experts of 4 outputs/);
  return step.submit();
});

t.run();
