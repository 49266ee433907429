import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Gpu } from "../src/gpu/device.ts";
import type { Step } from "../src/gpu/step.ts";
import { type SelfAttentionShape, selfAttention, selfAttentionGradient } from "../src/ops/attention.ts";
import { packed } from "../src/ops/packed.ts";
import { whole } from "../src/ops/strided.ts";
import { attentionReference, sequences } from "./attention-reference.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient, dot } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("attention");
const gpu = await openTestGpu();
t.after(() => gpu.close());

interface Case extends SelfAttentionShape {
  readonly lengths: readonly number[];
}

const total = ({ lengths }: Case) => lengths.reduce((sum, length) => sum + length, 0);

/** One fused tensor [T, (H + 2G) h] and dO [T, H h]. */
function inputs(c: Case, scale = 1) {
  const width = (c.heads + 2 * c.keyValueHeads) * c.headSize;
  return {
    qkv: noise(total(c) * width, 1, scale),
    dO: noise(total(c) * c.heads * c.headSize, 2),
  };
}

/** Columns [from, from + width) of a fused tensor. */
function columns(fused: ArrayLike<number>, stride: number, from: number, width: number): Float64Array {
  const rows = fused.length / stride;
  const out = new Float64Array(rows * width);
  for (let r = 0; r < rows; r++)
    for (let i = 0; i < width; i++) out[r * width + i] = fused[r * stride + from + i];
  return out;
}

/** The three parts of a fused tensor. */
function split(fused: ArrayLike<number>, { heads, keyValueHeads, headSize }: Case) {
  const [wide, narrow] = [heads * headSize, keyValueHeads * headSize];
  const stride = wide + 2 * narrow;
  return {
    q: columns(fused, stride, 0, wide),
    k: columns(fused, stride, wide, narrow),
    v: columns(fused, stride, wide + narrow, narrow),
  };
}

function expected(c: Case, qkv: ArrayLike<number>, dO: ArrayLike<number>) {
  const { heads, keyValueHeads: groups, headSize: h, causal, lengths } = c;
  return attentionReference({ ...split(qkv, c), dO, heads, groups, h, causal, spans: sequences(lengths) });
}

/** Forward and gradients through the fused layout. */
async function fused(device: Gpu, c: Case, qkv: Float32Array<ArrayBuffer>, dO: Float32Array<ArrayBuffer>) {
  const { heads, keyValueHeads, headSize } = c;
  const stride = (heads + 2 * keyValueHeads) * headSize;
  const rows = total(c);
  const step = device.step("attention");
  const parts = (tensor: ReturnType<Step["tensor"]>) => ({
    q: { tensor, offset: 0, stride },
    k: { tensor, offset: heads * headSize, stride },
    v: { tensor, offset: (heads + keyValueHeads) * headSize, stride },
  });
  const lengths = packed(step, c.lengths);
  const x = parts(step.upload(qkv, [rows, stride]));
  const { o, lse } = selfAttention(step, x, lengths, c);
  const dqkv = step.tensor([rows, stride]);
  const into = parts(dqkv);
  selfAttentionGradient(step, step.upload(dO, o.shape), o, lse, x, lengths, c, {
    dq: into.q,
    dk: into.k,
    dv: into.v,
  });
  const reads = [step.readFloats(o), step.readFloats(lse), step.readFloats(dqkv)];
  await step.submit();
  const [oValues, lseValues, gradient] = await Promise.all(reads);
  const { q: dq, k: dk, v: dv } = split(gradient, c);
  return { o: oValues, lse: lseValues, dq, dk, dv };
}

async function compare(device: Gpu, c: Case): Promise<void> {
  const { qkv, dO } = inputs(c);
  const actual = await fused(device, c, qkv, dO);
  const reference = expected(c, qkv, dO);
  for (const name of ["o", "lse", "dq", "dk", "dv"] as const) {
    assertClose(name, actual[name], reference[name], KERNEL_F32);
  }
}

const short = [1, 2, 3, 65, 17, 1, 130];
const cases: Case[] = [
  { heads: 8, keyValueHeads: 8, headSize: 8, causal: true, lengths: short },
  { heads: 4, keyValueHeads: 2, headSize: 16, causal: true, lengths: short },
  { heads: 4, keyValueHeads: 1, headSize: 32, causal: true, lengths: [31, 1, 2, 66] },
  { heads: 2, keyValueHeads: 1, headSize: 64, causal: true, lengths: [1, 65, 5] },
  { heads: 2, keyValueHeads: 2, headSize: 80, causal: true, lengths: [18, 1, 37] },
  { heads: 2, keyValueHeads: 2, headSize: 96, causal: false, lengths: [7, 2] },
  { heads: 2, keyValueHeads: 1, headSize: 128, causal: true, lengths: [1, 35] },
  { heads: 3, keyValueHeads: 3, headSize: 4, causal: false, lengths: short },
  { heads: 2, keyValueHeads: 2, headSize: 12, causal: false, lengths: [5, 64, 32] },
  { heads: 4, keyValueHeads: 4, headSize: 16, causal: false, lengths: [101, 2, 65] },
  { heads: 1, keyValueHeads: 1, headSize: 8, causal: true, lengths: [1025] },
  { heads: 2, keyValueHeads: 1, headSize: 8, causal: true, lengths: [0, 9, 0] },
];
/** From one row to as many as a backbone's context has, in one call. */
const long: Case = { heads: 2, keyValueHeads: 1, headSize: 32, causal: true, lengths: [1, 4096, 2, 700] };
cases.push(long);

for (const c of cases) {
  const name = `${c.heads}/${c.keyValueHeads} heads of ${c.headSize}, causal ${c.causal}, lengths ${c.lengths}`;
  t(`forward and gradients, ${name}`, () => compare(gpu, c));
}

t("the kernels of hardware adapters", async () => {
  const device = await openTestGpu();
  device.sharedSubgroup = 0;
  try {
    // Small heads: the registers of these kernels are unrolled, which a software adapter compiles slowly.
    await compare(device, { heads: 2, keyValueHeads: 1, headSize: 8, causal: true, lengths: [33, 1, 40] });
    await compare(device, { heads: 2, keyValueHeads: 2, headSize: 4, causal: false, lengths: [5, 34] });
    await compare(device, { ...long, heads: 1, headSize: 8 });
  } finally {
    device.close();
  }
});

t("the reference against finite differences", () => {
  const c = { heads: 2, keyValueHeads: 1, headSize: 4, causal: true, lengths: [5, 1, 3] };
  const { qkv, dO } = inputs(c);
  const gradient = expected(c, qkv, dO);
  const stride = (c.heads + 2 * c.keyValueHeads) * c.headSize;
  const flat = new Float64Array(qkv.length);
  for (let r = 0; r < total(c); r++) {
    flat.set(gradient.dq.subarray(r * 8, r * 8 + 8), r * stride);
    flat.set(gradient.dk.subarray(r * 4, r * 4 + 4), r * stride + 8);
    flat.set(gradient.dv.subarray(r * 4, r * 4 + 4), r * stride + 12);
  }
  assertGradient("dqkv", (x) => dot(expected(c, x, dO).o, dO), qkv, flat);
});

t("large scores neither overflow nor lose the maximum", async () => {
  const c = { heads: 2, keyValueHeads: 2, headSize: 16, causal: true, lengths: [40, 3] };
  const { qkv, dO } = inputs(c, 60);
  const actual = await fused(gpu, c, qkv, dO);
  const reference = expected(c, qkv, dO);
  // Scores of about 4000 carry an f32 rounding of 2e-4, which the exponential passes on.
  for (const name of ["o", "lse"] as const)
    assertClose(name, actual[name], reference[name], 100 * KERNEL_F32);
  assert.ok([...actual.dq, ...actual.dk, ...actual.dv].every(Number.isFinite));
});

t("a sequence gives the same bits alone and packed, every time", async () => {
  const c = { heads: 4, keyValueHeads: 2, headSize: 16, causal: true, lengths: [37, 1, 90, 16] };
  const { qkv, dO } = inputs(c);
  const together = await fused(gpu, c, qkv, dO);
  assert.equal(await fused(gpu, c, qkv, dO), together, "repeated");
  let row = 0;
  const width = { o: 64, lse: 4, dq: 64, dk: 32, dv: 32 };
  for (const length of c.lengths) {
    const one = { ...c, lengths: [length] };
    const alone = await fused(
      gpu,
      one,
      qkv.slice(row * 128, (row + length) * 128),
      dO.slice(row * 64, (row + length) * 64),
    );
    for (const name of ["o", "lse", "dq", "dk", "dv"] as const) {
      const part = together[name].slice(row * width[name], (row + length) * width[name]);
      assert.equal(alone[name], part, `${name} of the sequence of ${length}`);
    }
    row += length;
  }
});

t("separate tensors, and gradients into them", async () => {
  const c = { heads: 2, keyValueHeads: 1, headSize: 8, causal: false, lengths: [9, 20] };
  const { qkv, dO } = inputs(c);
  const { q, k, v } = split(qkv, c);
  const step = gpu.step("separate");
  const up = (x: Float64Array) => whole(step.upload(Float32Array.from(x), [29, x.length / 29]));
  const x = { q: up(q), k: up(k), v: up(v) };
  const lengths = packed(step, c.lengths);
  const { o, lse } = selfAttention(step, x, lengths, c);
  const into = {
    dq: whole(step.tensor([29, 16])),
    dk: whole(step.tensor([29, 8])),
    dv: whole(step.tensor([29, 8])),
  };
  selfAttentionGradient(step, step.upload(dO, [29, 16]), o, lse, x, lengths, c, into);
  const reads = Object.values(into).map(({ tensor }) => step.readFloats(tensor));
  await step.submit();
  const reference = expected(c, qkv, dO);
  assertClose("dq", await reads[0], reference.dq, KERNEL_F32);
  assertClose("dk", await reads[1], reference.dk, KERNEL_F32);
  assertClose("dv", await reads[2], reference.dv, KERNEL_F32);
});

t("an empty batch records nothing", async () => {
  const c = { heads: 2, keyValueHeads: 1, headSize: 8, causal: true, lengths: [] };
  const actual = await fused(gpu, c, new Float32Array(0), new Float32Array(0));
  assert.is(actual.o.length, 0);
  assert.is(actual.dq.length, 0);
});

t("impossible shapes are refused", () => {
  const step = gpu.step("refused");
  const lengths = packed(step, [1]);
  const tensor = step.tensor([1, 64]);
  const x = { q: whole(tensor), k: whole(tensor), v: whole(tensor) };
  const shape = { heads: 3, keyValueHeads: 2, headSize: 8, causal: true };
  assert.throws(() => selfAttention(step, x, lengths, shape), /3 heads do not divide into 2 groups/);
  assert.throws(
    () => selfAttention(step, x, lengths, { ...shape, heads: 2, headSize: 6 }),
    /head size 6: expected a multiple of 4/,
  );
  const skewed = { ...x, k: { tensor, offset: 2, stride: 64 } };
  assert.throws(() => selfAttention(step, skewed, lengths, { ...shape, heads: 2 }), /k starts at 2/);
  return step.submit();
});

t.run();
