/** Evaluation's memory: values end with their scope, whatever the depth, and the results stay the same bits. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { add, dropout, gelu, linear } from "../src/autograd/functions.ts";
import { Parameters } from "../src/autograd/parameters.ts";
import { Tape, type Variable } from "../src/autograd/tape.ts";
import type { Step } from "../src/gpu/step.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import { type ExpertKind, MFormer, type MFormerSizes } from "../src/laser/mformer.ts";
import { packed } from "../src/ops/packed.ts";
import { Bert4Rec } from "../src/recommenders/bert4rec.ts";
import { noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";

const t = suite("scopes");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** Records, submits, and returns the values with the bytes that the pool had to grow to. */
async function run(record: (step: Step) => Tensor): Promise<{ values: Float32Array; bytes: number }> {
  gpu.buffers.trim();
  const step = gpu.step("scope");
  const read = step.readFloats(record(step));
  await step.submit();
  return { values: await read, bytes: gpu.buffers.pooledBytes };
}

const sizes = (blocks: number, moe: ExpertKind): MFormerSizes => ({
  moe,
  collaborativeWidth: 8,
  width: 16,
  heads: 2,
  blocks,
  experts: 4,
  activeExperts: 2,
  queryTokens: 16,
  hiddenSize: 12,
  gates: "weights",
  dropout: 0.1,
});

function mformerPrefix(blocks: number, gradients: boolean, moe: ExpertKind) {
  const parameters = new Parameters();
  const model = new MFormer(parameters, sizes(blocks, moe));
  parameters.build(gpu, 1);
  const lengths = [3, 1, 5, 2, 4, 1];
  const record = (step: Step) => {
    const tape = new Tape(step, { gradients, dropout: null });
    const users = packed(step, lengths);
    return model.forward(tape, step.upload(noise(16 * 8, 2), [16, 8]), users, null).prefix.value;
  };
  return run(record).finally(() => parameters.release(gpu));
}

for (const moe of ["query", "ffn"] as const) {
  t(
    `the M-Former's memory without gradients does not grow with its depth, experts ${moe}; its prefix keeps its bits`,
    async () => {
      // From the third block on, when every kind of buffer has been needed once.
      const shallow = await mformerPrefix(3, false, moe);
      const deep = await mformerPrefix(12, false, moe);
      assert.is(deep.bytes, shallow.bytes);
      const kept = await mformerPrefix(12, true, moe);
      assert.ok(kept.bytes > 3 * deep.bytes, `${kept.bytes} bytes with gradients, ${deep.bytes} without`);
      assert.equal(deep.values, kept.values);
      assert.ok(deep.values.every(Number.isFinite));
    },
  );
}

t("so do BERT4Rec's hidden states", async () => {
  const states = async (blocks: number) => {
    const model = new Bert4Rec({ items: 30, width: 16, heads: 2, blocks, maxLength: 20, dropout: 0.2 });
    model.parameters.build(gpu, 1);
    const histories = [0, 1, 2, 3].map((s) => Array.from({ length: 20 - s }, (_, i) => (7 * i + s) % 30));
    return run((step) => model.hiddenStates(step, histories)).finally(() => model.release(gpu));
  };
  const [shallow, deep] = [await states(2), await states(9)];
  assert.is(deep.bytes, shallow.bytes);
  assert.ok(deep.values.every(Number.isFinite));
});

t("a scope ends what it made, and nothing else", async () => {
  const parameters = new Parameters();
  const weight = parameters.declare("w", [8, 8], { normal: 0.5 });
  parameters.build(gpu, 1);
  const step = gpu.step("scope");
  const tape = new Tape(step, { gradients: false, dropout: null });
  const outside = tape.constant(step.upload(noise(32, 1), [4, 8]));
  const seen: Variable[] = [];
  const result = tape.scope(() => {
    const first = linear(tape, outside, weight, null);
    // An inner scope's result belongs to the scope around it.
    const inner = tape.scope(() => {
      seen.push(gelu(tape, first, "none"));
      return add(tape, seen[0], outside);
    });
    assert.not.ok(step.owns(seen[0].value));
    assert.ok(step.owns(first.value));
    seen.push(first, inner);
    // Without a key dropout is its argument, and a view is its input's memory.
    const view = tape.result(outside.value.reshape([32]), [outside], [], () => {});
    assert.is(dropout(tape, inner, 0.5), inner);
    return add(tape, dropout(tape, inner, 0.5), tape.constant(view.value.reshape([4, 8])));
  });
  // (The result took the memory of the first that was freed.)
  for (const variable of seen.slice(1)) assert.not.ok(step.owns(variable.value));
  assert.ok(step.owns(outside.value));
  assert.ok(step.owns(result.value));
  // What comes from outside may be the result, also of a stage in the middle of a chain.
  assert.is(
    tape.scope(() => outside),
    outside,
  );
  const last = tape.chain(outside, [
    (x) => x,
    (x) => gelu(tape, x, "none"),
    (x) => x,
    () => outside,
    (x) => add(tape, x, result),
  ]);
  for (const variable of [outside, result, last]) assert.ok(step.owns(variable.value));
  const reads = [outside, result, last].map((variable) => step.readFloats(variable.value));
  await step.submit();
  const [a, b, sum] = await Promise.all(reads);
  assert.equal(a, noise(32, 1));
  assert.equal(
    sum,
    a.map((value, i) => Math.fround(value + b[i])),
  );
  parameters.release(gpu);
});

t("with gradients a scope frees nothing before backward", async () => {
  const step = gpu.step("scope");
  const tape = new Tape(step, { gradients: true, dropout: null });
  const x = tape.leaf(step.upload(noise(8, 1)));
  const made: Variable[] = [];
  const y = tape.chain(x, [
    (v) => {
      made.push(gelu(tape, v, "none"));
      return gelu(tape, made[0], "none");
    },
    (v) => add(tape, v, v),
  ]);
  assert.ok(step.owns(made[0].value));
  y.grad = step.upload(new Float32Array(8).fill(1));
  tape.backward();
  const read = step.readFloats(x.grad!);
  await step.submit();
  assert.ok((await read).every((v) => Number.isFinite(v) && v !== 0));
});

t.run();
