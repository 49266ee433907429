/**
 * `--products f16`: trained layers on tensor cores, against the same layers in f32, which the PyTorch dumps hold. On a GPU
 * with subgroup matrices, or Mesa's lavapipe from 25.2 on (test/newer-lavapipe.sh).
 */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { linear } from "../src/autograd/functions.ts";
import { Parameters } from "../src/autograd/parameters.ts";
import { Tape } from "../src/autograd/tape.ts";
import { MFormer } from "../src/laser/mformer.ts";
import { packed } from "../src/ops/packed.ts";
import { defaultConfig } from "../src/train/config.ts";
import { assertClose, noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import { STORAGE } from "./tolerances.ts";

const t = suite("mixed precision");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const matrix = gpu.offeredMatrix;
if (!matrix) console.log(`SKIPPED: products in f16, ${gpu.adapterName} has no subgroup matrices`);
else gpu.subgroupMatrix = matrix;

const SIZES = {
  moe: "query",
  collaborativeWidth: 24,
  width: 32,
  heads: 2,
  blocks: 2,
  experts: 3,
  activeExperts: 2,
  queryTokens: 5,
  hiddenSize: 36,
  gates: "weights",
  dropout: 0,
} as const;
const LENGTHS = [1, 7, 3, 12, 2, 9];

/** The prefix of every user, and the gradient at every parameter, by its name. `scale` multiplies the gradient at the prefix. */
async function run(half: boolean, scale: number) {
  const parameters = new Parameters(half);
  const mformer = new MFormer(parameters, SIZES);
  parameters.build(gpu, 3);
  const step = gpu.step("M-Former");
  const tape = new Tape(step, { gradients: true, dropout: null });
  const rows = LENGTHS.reduce((sum, length) => sum + length, 0);
  const c = step.upload(noise(rows * SIZES.collaborativeWidth, 1), [rows, SIZES.collaborativeWidth]);
  const { prefix } = mformer.forward(tape, c, packed(step, LENGTHS), null);
  const read = step.readFloats(prefix.value);
  const gradient = step.upload(noise(prefix.value.size, 2, scale), prefix.value.shape);
  tape.loss([], () => tape.give(prefix, gradient));
  tape.backward();
  parameters.settleGradients(step);
  const gradients = step.readFloats(parameters.gradients);
  await step.submit();
  const named = parameters.split(await gradients);
  parameters.release(gpu);
  return { prefix: await read, gradients: named };
}

// Gradients as small as late in training, and larger than f16 holds.
for (const scale of matrix ? [1, 1e-7, 1e6] : []) {
  t(`the M-Former and its gradients, at ${scale} times the prefix`, async () => {
    const [single, half, again] = [await run(false, scale), await run(true, scale), await run(true, scale)];
    assertClose("prefix", half.prefix, single.prefix, STORAGE.f16.model);
    assert.not.equal(half.prefix, single.prefix, "f16 is another product");
    assert.equal(again, half, "repeats to the bit");
    // A constant added to all keys changes no probability: the gradient of their bias is zero but for rounding.
    const judged = [...single.gradients].filter(([name]) => !name.endsWith("_attn.k.bias"));
    for (const [name, { data }] of judged)
      assertClose(name, half.gradients.get(name)!.data, data, STORAGE.f16.model);
  });
}

/** y = x W^T + b of fixed x, and the gradients given a fixed dy: each is one product. */
async function linearOnce(half: boolean) {
  const [m, n, k] = [67, 40, 36];
  const parameters = new Parameters(half);
  const weight = parameters.declare("weight", [n, k], { normal: 1 });
  const bias = parameters.declare("bias", [n], { normal: 1 });
  parameters.build(gpu, 5);
  const step = gpu.step("linear");
  const tape = new Tape(step, { gradients: true, dropout: null });
  const x = tape.leaf(step.upload(noise(m * k, 6), [m, k]));
  const y = linear(tape, x, weight, bias);
  const read = step.readFloats(y.value);
  tape.loss([], () => tape.give(y, step.upload(noise(m * n, 7), [m, n])));
  tape.backward();
  const reads = [read, step.readFloats(x.grad!), step.readFloats(weight.grad), step.readFloats(bias.grad)];
  await step.submit();
  const [values, atX, atWeight, atBias] = await Promise.all(reads);
  parameters.release(gpu);
  return { y: values, dx: atX, dW: atWeight, db: atBias };
}

if (matrix) {
  t("forward, input gradient and weight gradient of a linear layer each run on tensor cores", async () => {
    const [single, half] = [await linearOnce(false), await linearOnce(true)];
    for (const name of ["y", "dx", "dW"] as const) {
      assertClose(name, half[name], single[name], STORAGE.f16.kernel);
      assert.not.equal(half[name], single[name], `${name} is another product`);
    }
    assert.equal(half.db, single.db);
  });
}

t("f32 is the default", () => {
  assert.is(defaultConfig().products, "f32");
  const parameters = new Parameters();
  new MFormer(parameters, SIZES);
  assert.ok(parameters.list.every(({ half }) => !half));
});

t.run();
