/** Attention on tensor cores and in float64, as test/attention-matrix.test.ts and test/emulated-matrices.test.ts run it. */
import * as assert from "uvu/assert";
import type { Gpu } from "../src/gpu/device.ts";
import { attendHeads, attendHeadsGradient } from "../src/ops/attend-matrix.ts";
import type { SelfAttentionShape } from "../src/ops/attention.ts";
import { headLayoutOf, packHeads } from "../src/ops/pack-heads.ts";
import { packed } from "../src/ops/packed.ts";
import { attentionReference, sequences } from "./attention-reference.ts";
import { assertClose, noise } from "./close.ts";
import { STORAGE } from "./tolerances.ts";

export interface AttentionCase extends SelfAttentionShape {
  readonly lengths: readonly number[];
  /** Of queries, keys and values. */
  readonly magnitude?: number;
  /** Of the gradient at the result. */
  readonly gradient?: number;
}

/** Forward and backward on the GPU, with gpu.subgroupMatrix, and what a float64 reference says. */
export async function runAttention(
  gpu: Gpu,
  { lengths, magnitude = 1, gradient = 1, ...shape }: AttentionCase,
) {
  const { heads, keyValueHeads, headSize } = shape;
  const stride = (heads + 2 * keyValueHeads) * headSize;
  const rows = lengths.reduce((sum, length) => sum + length, 0);
  const values = noise(rows * stride, 3, magnitude);
  const step = gpu.step("attention");
  const tensor = step.upload(values, [rows, stride]);
  const part = (offset: number) => ({ tensor, offset, stride });
  const inputs = { q: part(0), k: part(heads * headSize), v: part((heads + keyValueHeads) * headSize) };
  const lengthsOf = packed(step, lengths);
  const layout = headLayoutOf(step, headSize);
  if (!layout) throw new Error(`no layout for heads of ${headSize}`);
  const packedHeads = packHeads(step, inputs, rows, shape, layout, null);
  const { o, lse } = attendHeads(step, packedHeads, lengthsOf, shape.causal);
  const dO = noise(rows * heads * headSize, 4, gradient);
  const dqkv = step.tensor([rows, stride]);
  const partOf = (offset: number) => ({ tensor: dqkv, offset, stride });
  const into = {
    dq: partOf(0),
    dk: partOf(heads * headSize),
    dv: partOf((heads + keyValueHeads) * headSize),
  };
  attendHeadsGradient(step, step.upload(dO, o.shape), { o, lse }, packedHeads, lengthsOf, shape.causal, into);
  const reads = [step.readFloats(o), step.readFloats(lse), step.readFloats(dqkv)];
  await step.submit();
  const [oValues, lseValues, gradients] = await Promise.all(reads);
  const columns = (from: number, width: number, values: ArrayLike<number>) =>
    Float64Array.from(
      { length: rows * width },
      (_, i) => values[Math.floor(i / width) * stride + from + (i % width)],
    );
  const [wide, narrow] = [heads * headSize, keyValueHeads * headSize];
  const reference = attentionReference({
    q: columns(0, wide, values),
    k: columns(wide, narrow, values),
    v: columns(wide + narrow, narrow, values),
    dO,
    heads,
    groups: keyValueHeads,
    h: headSize,
    causal: shape.causal,
    spans: sequences(lengths),
  });
  const dq = columns(0, wide, gradients);
  const dk = columns(wide, narrow, gradients);
  const dv = columns(wide + narrow, narrow, gradients);
  return { o: oValues, lse: lseValues, dq, dk, dv, reference };
}

/** A case as a test's name. */
export function describeAttention({
  heads,
  keyValueHeads,
  headSize,
  causal,
  lengths,
}: AttentionCase): string {
  return `${heads}/${keyValueHeads} heads of ${headSize}, causal ${causal}, lengths ${lengths}`;
}

/** Fails unless attention and its gradients are right, and repeat to the bit. */
export async function checkAttention(gpu: Gpu, c: AttentionCase): Promise<void> {
  const { o, lse, dq, dk, dv, reference } = await runAttention(gpu, c);
  const tolerance = (c.magnitude ?? 1) * STORAGE.f16.kernel;
  assertClose("o", o, reference.o, tolerance);
  assertClose("dq", dq, reference.dq, tolerance);
  assertClose("dk", dk, reference.dk, tolerance);
  assertClose("dv", dv, reference.dv, tolerance);
  assertClose("lse", lse, reference.lse, STORAGE.f16.kernel);
  const again = await runAttention(gpu, c);
  for (const [name, value] of Object.entries({ o, lse, dq, dk, dv }))
    assert.equal(again[name as "o"], value, `${name} repeats to the bit`);
}
