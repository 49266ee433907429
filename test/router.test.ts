import { suite } from "uvu";
import * as assert from "uvu/assert";
import { packed } from "../src/ops/packed.ts";
import {
  type BalanceScope,
  type GateMode,
  gates,
  type LoadBalancing,
  loadBalancing,
  router,
  routerGradient,
} from "../src/ops/router.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient, dot } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("router");
const gpu = await openTestGpu();
t.after(() => gpu.close());

type Values = ArrayLike<number>;

const MODES: readonly GateMode[] = ["weights", "softmax", "normalized"];
const SCOPES: readonly BalanceScope[] = ["sequence", "batch"];

interface Shape {
  readonly lengths: readonly number[];
  readonly width: number;
  readonly experts: number;
  readonly active: number;
}

/** P, w, top and argmax counts in float64. `fixed` keeps the choices of another evaluation (for differences). */
function reference(c: Values, weight: Values, { lengths, width, experts, active }: Shape) {
  const total = lengths.reduce((a, b) => a + b, 0);
  const p = new Float64Array(total * experts);
  const w = new Float64Array(lengths.length * experts);
  const counts = new Uint32Array(lengths.length * experts);
  const top: number[] = [];
  let n = 0;
  lengths.forEach((length, b) => {
    for (let i = 0; i < length; i++, n++) {
      const logits = Array.from({ length: experts }, (_, j) => {
        let sum = 0;
        for (let k = 0; k < width; k++) sum += c[n * width + k] * weight[j * width + k];
        return sum;
      });
      const most = Math.max(...logits);
      counts[b * experts + logits.indexOf(most)]++;
      const sum = logits.reduce((a, x) => a + Math.exp(x - most), 0);
      logits.forEach((x, j) => {
        p[n * experts + j] = Math.exp(x - most) / sum;
        w[b * experts + j] += p[n * experts + j] / length;
      });
    }
    const own = w.subarray(b * experts, (b + 1) * experts);
    const order = Array.from({ length: experts }, (_, j) => j).sort((x, y) => own[y] - own[x] || x - y);
    top.push(...order.slice(0, active));
  });
  return { p, w, top: Uint32Array.from(top), counts, total };
}

type Reference = ReturnType<typeof reference>;

function referenceGates(r: Reference, { experts, active }: Shape, mode: GateMode): Float64Array {
  const v = Float64Array.from(r.top, (j, at) => r.w[Math.floor(at / active) * experts + j]);
  if (mode === "weights") return v;
  const terms = mode === "softmax" ? v.map(Math.exp) : v;
  return terms.map((x, at) => {
    const first = Math.floor(at / active) * active;
    return x / terms.subarray(first, first + active).reduce((a, b) => a + b);
  });
}

/** The loss with its argmax shares held at those of `shares`. */
function referenceBalance(
  r: Reference,
  shares: Reference,
  { lengths, experts }: Shape,
  scope: BalanceScope,
): number {
  let loss = 0;
  for (let j = 0; j < experts; j++) {
    let count = 0;
    let mean = 0;
    lengths.forEach((length, b) => {
      const at = b * experts + j;
      count += shares.counts[at];
      mean += (length * r.w[at]) / r.total;
      if (scope === "sequence") loss += ((experts / lengths.length) * shares.counts[at] * r.w[at]) / length;
    });
    if (scope === "batch") loss += experts * (count / r.total) * mean;
  }
  return loss;
}

/** The gradient with respect to W_r, by the chain rule through w and P in float64. */
function referenceGradient(
  c: Values,
  weight: Values,
  shape: Shape,
  dGates: Values | null,
  mode: GateMode,
  balance: LoadBalancing | null,
): Float64Array {
  const { lengths, width, experts, active } = shape;
  const r = reference(c, weight, shape);
  const g = referenceGates(r, shape, mode);
  const dWeight = new Float64Array(experts * width);
  let n = 0;
  lengths.forEach((length, b) => {
    const dP = new Float64Array(experts);
    for (let at = b * active; dGates && at < (b + 1) * active; at++) {
      for (let i = b * active; i < (b + 1) * active; i++) {
        // d g_i / d v_at.
        const v = (place: number) => r.w[b * experts + r.top[place]];
        let sum = 0;
        for (let place = b * active; place < (b + 1) * active; place++) sum += v(place);
        let slope = i === at ? 1 : 0;
        if (mode === "softmax") slope = g[i] * ((i === at ? 1 : 0) - g[at]);
        if (mode === "normalized") slope = ((i === at ? 1 : 0) - g[i]) / sum;
        dP[r.top[at]] += (dGates[i] * slope) / length;
      }
    }
    for (let j = 0; balance && j < experts; j++) {
      let count = 0;
      for (let other = 0; other < lengths.length; other++) count += r.counts[other * experts + j];
      dP[j] +=
        balance.scope === "batch"
          ? (balance.coefficient * experts * count) / r.total ** 2
          : (((balance.coefficient * experts) / lengths.length) * r.counts[b * experts + j]) / length ** 2;
    }
    for (let i = 0; i < length; i++, n++) {
      const row = r.p.subarray(n * experts, (n + 1) * experts);
      const along = dot(row, dP);
      for (let j = 0; j < experts; j++)
        for (let k = 0; k < width; k++) dWeight[j * width + k] += row[j] * (dP[j] - along) * c[n * width + k];
    }
  });
  return dWeight;
}

const SHAPES: readonly Shape[] = [
  { lengths: [1], width: 1, experts: 1, active: 1 },
  { lengths: [1, 4], width: 7, experts: 1, active: 1 },
  { lengths: [1, 5, 10, 50, 3], width: 64, experts: 8, active: 3 },
  { lengths: [67, 2, 129], width: 16, experts: 5, active: 2 },
  { lengths: [3, 1], width: 12, experts: 7, active: 7 },
  { lengths: [5, 31, 7], width: 9, experts: 64, active: 11 },
];

async function compute(shape: Shape, c: Float32Array<ArrayBuffer>, weight: Float32Array<ArrayBuffer>) {
  const { lengths, width, experts, active } = shape;
  const batch = lengths.length;
  const dGates = noise(batch * active, 3);
  const step = gpu.step("router");
  const users = packed(step, lengths);
  const ct = step.upload(c, [users.total, width]);
  const wt = step.upload(weight, [experts, width]);
  const routing = router(step, ct, users, wt, active);
  const outputs = [routing.p, routing.w, routing.top, routing.argmaxCounts].map((x) => step.read(x));
  const gateReads = MODES.map((mode) => step.readFloats(gates(step, routing, mode)));
  const losses = SCOPES.map((scope) => step.readFloats(loadBalancing(step, routing, users, scope)));
  const dg = step.upload(dGates, [batch, active]);
  const gradients: { name: string; expected: Float64Array; found: Promise<Float32Array> }[] = [];
  for (const mode of MODES) {
    for (const scope of [null, ...SCOPES]) {
      for (const gated of [true, false]) {
        const balance = scope && { scope, coefficient: 0.7 };
        const dWeight = step.upload(new Float32Array(experts * width).fill(0.25), [experts, width]);
        const accumulate = scope !== "batch";
        routerGradient(step, ct, users, routing, gated ? dg : null, mode, balance, { dWeight, accumulate });
        const exact = referenceGradient(c, weight, shape, gated ? dGates : null, mode, balance);
        gradients.push({
          name: `dW_r, ${mode}, ${scope} ${gated}`,
          expected: accumulate ? exact.map((x) => x + 0.25) : exact,
          found: step.readFloats(dWeight),
        });
      }
    }
  }
  await step.submit();
  const [p, w, top, counts] = await Promise.all(outputs);
  const g = await Promise.all(gateReads);
  const balances = await Promise.all(losses);
  const dWeights = await Promise.all(gradients.map(({ found }) => found));
  return { values: { p, w, top, counts, g, balances, dWeights }, gradients };
}

for (const shape of SHAPES) {
  const { lengths, width, experts, active } = shape;
  t(`top ${active} of ${experts} experts, d_c ${width}, lengths ${lengths}`, async () => {
    const c = noise(lengths.reduce((a, b) => a + b) * width, 1);
    const weight = noise(experts * width, 2);
    const r = reference(c, weight, shape);
    const { values, gradients } = await compute(shape, c, weight);
    assertClose("P", values.p, r.p, KERNEL_F32);
    assertClose("w", values.w, r.w, KERNEL_F32);
    assert.equal(values.top, r.top);
    assert.equal(values.counts, r.counts);
    MODES.forEach((mode, i) => {
      assertClose(`gates, ${mode}`, values.g[i], referenceGates(r, shape, mode), KERNEL_F32);
    });
    SCOPES.forEach((scope, i) => {
      const expected = referenceBalance(r, r, shape, scope);
      assertClose(`balance, ${scope}`, values.balances[i], [expected], KERNEL_F32);
    });
    gradients.forEach(({ name, expected }, i) => {
      assertClose(name, values.dWeights[i], expected, KERNEL_F32);
    });
    assert.equal((await compute(shape, c, weight)).values, values, "a run repeats bit for bit");
  });
}

t("the reference is right: finite differences", () => {
  const shape = { lengths: [2, 5, 1], width: 4, experts: 6, active: 3 };
  const c = noise(8 * 4, 1);
  const weight = noise(6 * 4, 2);
  const dGates = noise(9, 3);
  const start = reference(c, weight, shape);
  for (const mode of MODES) {
    for (const scope of SCOPES) {
      const loss = (x: Values) => {
        const r = { ...reference(c, x, shape), top: start.top };
        return dot(referenceGates(r, shape, mode), dGates) + 0.3 * referenceBalance(r, start, shape, scope);
      };
      const exact = referenceGradient(c, weight, shape, dGates, mode, { scope, coefficient: 0.3 });
      assertGradient(`${mode}, ${scope}`, loss, weight, exact);
    }
  }
});

t("identical experts tie: the lower index is chosen and counted", async () => {
  const shape = { lengths: [3, 70], width: 5, experts: 6, active: 4 };
  const row = noise(5, 4);
  const weight = new Float32Array(30);
  for (let j = 0; j < 6; j++) weight.set(j === 4 ? row.map((x) => -x) : row, j * 5);
  const c = new Float32Array(73 * 5);
  for (let n = 0; n < 73; n++) c.set(n % 2 ? row : row.map((x) => x * 0.5), n * 5);
  const { values } = await compute(shape, c, weight);
  assert.equal([...values.top], [0, 1, 2, 3, 0, 1, 2, 3]);
  assert.equal([...values.counts], [3, 0, 0, 0, 0, 0, 70, 0, 0, 0, 0, 0]);
});

t("too many experts, too many active ones and empty users are refused", () => {
  const step = gpu.step("refused");
  const weight = (experts: number) => step.upload(new Float32Array(experts), [experts, 1]);
  const users = packed(step, [2]);
  const c = step.upload(new Float32Array(2), [2, 1]);
  assert.throws(() => router(step, c, users, weight(65), 1), /65 experts; expected at most 64/);
  assert.throws(
    () => router(step, c, users, weight(4), 5),
    /5 active experts.*1 to the number of experts, 4/,
  );
  assert.throws(() => router(step, c, users, weight(4), 0), /0 active experts/);
  assert.throws(() => router(step, c, packed(step, [2, 0]), weight(4), 1), /at least one position/);
  return step.submit();
});

t.run();
