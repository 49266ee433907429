/**
 * Attention on tensor cores: on a GPU with subgroup matrices, or Mesa's lavapipe from 25.2 on (test/newer-lavapipe.sh).
 */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { kernels } from "../src/gpu/kernels.generated.ts";
import { matrixAttention } from "../src/gpu/variants.ts";
import { attendHeads, attendHeadsGradient } from "../src/ops/attend-matrix.ts";
import { type SelfAttentionShape, selfAttention } from "../src/ops/attention.ts";
import { matrixLayoutOf, packHeads } from "../src/ops/pack-heads.ts";
import { packed } from "../src/ops/packed.ts";
import { attentionReference, sequences } from "./attention-reference.ts";
import { assertClose, noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32, STORAGE } from "./tolerances.ts";

const t = suite("attention on tensor cores");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const matrix = gpu.offeredMatrix;
if (!matrix) console.log(`SKIPPED: attention on tensor cores, ${gpu.adapterName} has no subgroup matrices`);
else gpu.subgroupMatrix = matrix;

t("heads and subgroups that have a variant", () => {
  const nvidia = { rows: 16, columns: 16, depth: 16, lanes: 32 };
  assert.is(matrixAttention(nvidia, 128)?.constants?.HEAD_SIZE, 128);
  assert.is(matrixAttention(nvidia, 40), null);
  assert.is(matrixAttention(nvidia, 256), null);
  assert.is(matrixAttention({ ...nvidia, lanes: 8 }, 64), null, "two rows of a matrix for a lane");
  assert.is(matrixAttention({ rows: 8, columns: 8, depth: 8, lanes: 64 }, 64), null, "four keys for a lane");
});

/** WGSL cannot include: a kernel that is valid by itself repeats what it shares, which must not drift apart. */
t("the kernels pack f16, and scale gradients, by the same text", () => {
  const { attention_matrix_forward: forward, attention_matrix_dq: dq, attention_matrix_dkv: dkv } = kernels;
  const bodies = (name: string, sharing: readonly { readonly source: string }[]) =>
    new Set(
      sharing.map(({ source }) => new RegExp(`^fn ${name}\\([\\s\\S]*?^}$`, "m").exec(source)?.[0] ?? source),
    );
  assert.is(bodies("halves", [forward, dq, dkv]).size, 1);
  assert.is(bodies("inverse_of", [dq, dkv]).size, 1);
});

interface Case extends SelfAttentionShape {
  readonly lengths: readonly number[];
  /** Of queries, keys and values. */
  readonly magnitude?: number;
  /** Of the gradient at the result. */
  readonly gradient?: number;
}

async function run({ lengths, magnitude = 1, gradient = 1, ...shape }: Case) {
  const { heads, keyValueHeads, headSize } = shape;
  const stride = (heads + 2 * keyValueHeads) * headSize;
  const rows = lengths.reduce((sum, length) => sum + length, 0);
  const values = noise(rows * stride, 3, magnitude);
  const step = gpu.step("attention");
  const tensor = step.upload(values, [rows, stride]);
  const part = (offset: number) => ({ tensor, offset, stride });
  const inputs = { q: part(0), k: part(heads * headSize), v: part((heads + keyValueHeads) * headSize) };
  const lengthsOf = packed(step, lengths);
  const layout = matrixLayoutOf(step, headSize);
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

const short = [1, 2, 3, 65, 17, 1, 130];
const cases: Case[] = [
  { heads: 4, keyValueHeads: 2, headSize: 16, causal: true, lengths: short },
  { heads: 4, keyValueHeads: 1, headSize: 32, causal: true, lengths: [31, 1, 2, 66] },
  { heads: 2, keyValueHeads: 1, headSize: 64, causal: true, lengths: [1, 65, 5, 0, 32, 33] },
  { heads: 2, keyValueHeads: 2, headSize: 80, causal: true, lengths: [18, 1, 37] },
  { heads: 2, keyValueHeads: 2, headSize: 96, causal: false, lengths: [7, 2, 64] },
  { heads: 2, keyValueHeads: 1, headSize: 128, causal: true, lengths: [1, 35] },
  { heads: 4, keyValueHeads: 4, headSize: 16, causal: false, lengths: [101, 2, 65] },
  { heads: 1, keyValueHeads: 1, headSize: 16, causal: true, lengths: [1025] },
  // Scores up to about 50: nearly one key takes all. Gradients that f16 has not.
  { heads: 2, keyValueHeads: 1, headSize: 32, causal: true, lengths: [70, 9], gradient: 1e-12 },
  { heads: 2, keyValueHeads: 2, headSize: 32, causal: true, lengths: [70, 9], gradient: 1e9 },
  { heads: 2, keyValueHeads: 2, headSize: 32, causal: true, lengths: [70, 9], magnitude: 4 },
];

for (const c of matrix ? cases : []) {
  const name = `${c.heads}/${c.keyValueHeads} heads of ${c.headSize}, causal ${c.causal}, lengths ${c.lengths}`;
  t(name, async () => {
    const { o, lse, dq, dk, dv, reference } = await run(c);
    const tolerance = (c.magnitude ?? 1) * STORAGE.f16.kernel;
    assertClose("o", o, reference.o, tolerance);
    assertClose("dq", dq, reference.dq, tolerance);
    assertClose("dk", dk, reference.dk, tolerance);
    assertClose("dv", dv, reference.dv, tolerance);
    assertClose("lse", lse, reference.lse, STORAGE.f16.kernel);
    const again = await run(c);
    for (const [name, value] of Object.entries({ o, lse, dq, dk, dv }))
      assert.equal(again[name as "o"], value, `${name} repeats to the bit`);
  });
}

if (matrix) {
  t("what a sequence gives does not depend on the others, to the bit", async () => {
    const shape = { heads: 2, keyValueHeads: 1, headSize: 32, causal: true };
    const alone = await run({ ...shape, lengths: [40] });
    const first = await run({ ...shape, lengths: [40, 77, 3] });
    assert.equal(first.o.slice(0, alone.o.length), alone.o);
  });
}

t("attention of what trains stays f32 where there are tensor cores", async () => {
  const step = gpu.step("f32");
  const [rows, heads, headSize] = [43, 2, 32];
  const stride = heads * headSize;
  const [q, k, v] = [1, 2, 3].map((seed) => noise(rows * stride, seed));
  const part = (values: Float32Array<ArrayBuffer>) => ({
    tensor: step.upload(values, [rows, stride]),
    offset: 0,
    stride,
  });
  const shape = { heads, keyValueHeads: heads, headSize, causal: true };
  const { o } = selfAttention(step, { q: part(q), k: part(k), v: part(v) }, packed(step, [40, 3]), shape);
  const read = step.readFloats(o);
  await step.submit();
  const reference = attentionReference({
    q,
    k,
    v,
    dO: new Float32Array(rows * stride),
    heads,
    groups: heads,
    h: headSize,
    causal: true,
    spans: sequences([40, 3]),
  });
  assertClose("o", await read, reference.o, KERNEL_F32);
});

t.run();
