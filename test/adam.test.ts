import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Gpu } from "../src/gpu/device.ts";
import { adamStep } from "../src/ops/adam.ts";
import { sumSquares } from "../src/ops/reduce.ts";
import { assertClose, noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("adam");
const gpu = await openTestGpu();
t.after(() => gpu.close());

interface Options {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
  readonly clip: number | null;
}

const ADAM: Options = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, clip: null };
const rate = (step: number) => 0.01 * step;
const STEPS = 4;

/** The gradients of step s: of another size every step, so that clipping differs; zero at index 2. */
const gradientOf = (n: number, s: number) => noise(n, 10 + s, 0.2 * s).map((g, i) => (i === 2 ? 0 : g));

/** Adam as the papers write it, in float64. Returns the parameters after the last step. */
function reference(n: number, { beta1, beta2, eps, weightDecay, clip }: Options): Float64Array {
  const parameter = Float64Array.from(noise(n, 1));
  const m = new Float64Array(n);
  const v = new Float64Array(n);
  for (let s = 1; s <= STEPS; s++) {
    const gradient = gradientOf(n, s);
    const norm = Math.sqrt(Array.from(gradient).reduce((sum, g) => sum + g * g, 0));
    const factor = clip === null ? 1 : Math.min(1, clip / (norm + 1e-6));
    for (let i = 0; i < n; i++) {
      const g = gradient[i] * factor;
      m[i] = beta1 * m[i] + (1 - beta1) * g;
      v[i] = beta2 * v[i] + (1 - beta2) * g * g;
      parameter[i] *= 1 - rate(s) * weightDecay;
      const mean = m[i] / (1 - beta1 ** s);
      const variance = v[i] / (1 - beta2 ** s);
      parameter[i] -= (rate(s) * mean) / (Math.sqrt(variance) + eps);
    }
  }
  return parameter;
}

async function run(device: Gpu, n: number, { clip, ...options }: Options): Promise<Float32Array> {
  const [parameter, gradient] = [device.parameter([n], "f32", noise(n, 1)), device.parameter([n])];
  const [m, v] = [device.parameter([n]), device.parameter([n])];
  for (let s = 1; s <= STEPS; s++) {
    device.write(gradient, gradientOf(n, s));
    const step = device.step("adam");
    const squared = clip === null ? null : sumSquares(step, gradient);
    adamStep(step, { parameter, gradient, m, v }, { ...options, lr: rate(s), t: s }, squared, clip);
    await step.submit();
  }
  const result = await device.read(parameter);
  for (const tensor of [parameter, gradient, m, v]) device.release(tensor);
  return result as Float32Array;
}

/** What the optimiser did to the parameters: the steps are far smaller than the parameters themselves. */
const moved = (n: number, after: ArrayLike<number>) => noise(n, 1).map((v, i) => after[i] - v);

for (const [name, options] of [
  ["Adam", ADAM],
  ["AdamW", { ...ADAM, weightDecay: 0.1 }],
  ["other constants", { beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0.01, clip: null }],
  ["clipped in some steps", { ...ADAM, weightDecay: 0.01, clip: 3, eps: 0.1 }],
] as [string, Options][]) {
  for (const n of [1, 257, 1009, 2052]) {
    t(`${name}, ${n} parameters`, async () => {
      const after = await run(gpu, n, options);
      assertClose("movement", moved(n, after), moved(n, reference(n, options)), KERNEL_F32);
      assert.equal(await run(gpu, n, options), after, "two runs differ");
    });
  }
}

t("clipping changes the result, and a generous clip does not", async () => {
  const options = { ...ADAM, eps: 0.1 };
  const free = await run(gpu, 257, options);
  assert.equal(await run(gpu, 257, { ...options, clip: 1e6 }), free);
  assert.not.equal(await run(gpu, 257, { ...options, clip: 1 }), free);
});

t("parameters past the binding limit are updated in windows, to the bit", async () => {
  const small = await openTestGpu({ maxBindingBytes: 4096 });
  try {
    const options = { ...ADAM, weightDecay: 0.1 };
    assert.equal(await run(small, 5004, options), await run(gpu, 5004, options));
  } finally {
    small.close();
  }
});

t("clipping without the norm is refused", async () => {
  const step = gpu.step("refused");
  const tensor = step.tensor([1]);
  const state = { parameter: tensor, gradient: tensor, m: tensor, v: tensor };
  assert.throws(() => adamStep(step, state, { ...ADAM, lr: 1, t: 1 }, null, 1), /squared norm/);
  await step.submit();
});

t.run();
