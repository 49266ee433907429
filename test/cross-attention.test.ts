import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Gpu } from "../src/gpu/device.ts";
import { crossAttention, crossAttentionGradient, type RaggedKeys } from "../src/ops/cross-attention.ts";
import { whole } from "../src/ops/strided.ts";
import { attentionReference } from "./attention-reference.ts";
import { assertClose, noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("cross-attention");
const gpu = await openTestGpu();
t.after(() => gpu.close());

interface Case extends RaggedKeys {
  readonly heads: number;
  readonly headSize: number;
  readonly queryLength: number;
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

function inputs(c: Case) {
  const width = c.heads * c.headSize;
  const [rows, keys] = [c.owner.length * c.queryLength, sum(c.keyLengths)];
  return {
    q: noise(rows * width, 1),
    k: noise(keys * width, 2),
    v: noise(keys * width, 3),
    dO: noise(rows * width, 4),
  };
}

function expected(c: Case) {
  const starts = c.keyLengths.map((_, user) => sum(c.keyLengths.slice(0, user)));
  const spans = c.owner.map((user, s) => ({
    queries: [s * c.queryLength, (s + 1) * c.queryLength] as const,
    keys: [starts[user], starts[user] + c.keyLengths[user]] as const,
  }));
  const { heads, headSize: h } = c;
  return attentionReference({ ...inputs(c), heads, groups: heads, h, spans, causal: false });
}

/** Forward and gradients, with keys and values side by side in one tensor. */
async function run(device: Gpu, c: Case, { q, k, v, dO } = inputs(c)) {
  const width = c.heads * c.headSize;
  const [rows, keys] = [q.length / width, k.length / width];
  const fused = new Float32Array(2 * k.length);
  for (let row = 0; row < keys; row++) {
    fused.set(k.subarray(row * width, (row + 1) * width), 2 * row * width);
    fused.set(v.subarray(row * width, (row + 1) * width), (2 * row + 1) * width);
  }
  const step = device.step("cross-attention");
  const kv = step.upload(fused, [keys, 2 * width]);
  const x = {
    q: whole(step.upload(q, [rows, width])),
    k: { tensor: kv, offset: 0, stride: 2 * width },
    v: { tensor: kv, offset: width, stride: 2 * width },
  };
  const { o, lse } = crossAttention(step, x, c, c);
  const dq = step.tensor([rows, width]);
  const dkv = step.tensor([keys, 2 * width]);
  crossAttentionGradient(step, step.upload(dO, [rows, width]), o, lse, x, c, c, {
    dq: whole(dq),
    dk: { tensor: dkv, offset: 0, stride: 2 * width },
    dv: { tensor: dkv, offset: width, stride: 2 * width },
  });
  const reads = [o, lse, dq, dkv].map((tensor) => step.readFloats(tensor));
  await step.submit();
  const [oValues, lseValues, dqValues, both] = await Promise.all(reads);
  const dk = new Float32Array(k.length);
  const dv = new Float32Array(k.length);
  for (let row = 0; row < keys; row++) {
    dk.set(both.subarray(2 * row * width, (2 * row + 1) * width), row * width);
    dv.set(both.subarray((2 * row + 1) * width, (2 * row + 2) * width), row * width);
  }
  return { o: oValues, lse: lseValues, dq: dqValues, dk, dv };
}

async function compare(device: Gpu, c: Case): Promise<void> {
  const actual = await run(device, c);
  const reference = expected(c);
  for (const name of ["o", "lse", "dq", "dk", "dv"] as const) {
    assertClose(name, actual[name], reference[name], KERNEL_F32);
  }
}

const cases: Case[] = [
  { heads: 1, headSize: 8, queryLength: 1, keyLengths: [1], owner: [0] },
  {
    heads: 2,
    headSize: 8,
    queryLength: 5,
    keyLengths: [1, 50, 3, 17, 7, 2],
    owner: [3, 0, 1, 1, 4, 2, 0, 3],
  },
  { heads: 3, headSize: 16, queryLength: 32, keyLengths: [33, 64], owner: [1, 1, 0] },
  { heads: 2, headSize: 64, queryLength: 32, keyLengths: [13, 50], owner: [0, 1, 1] },
  { heads: 1, headSize: 80, queryLength: 3, keyLengths: [2, 300], owner: [1, 0, 1] },
];

for (const c of cases) {
  const name = `${c.heads} heads of ${c.headSize}, ${c.queryLength} queries, keys ${c.keyLengths}, owners ${c.owner}`;
  t(`forward and gradients, ${name}`, () => compare(gpu, c));
}

t("the kernels of hardware adapters", async () => {
  const device = await openTestGpu();
  device.sharedSubgroup = 0;
  try {
    await compare(device, {
      heads: 2,
      headSize: 4,
      queryLength: 5,
      keyLengths: [40, 3, 1],
      owner: [2, 0, 0],
    });
  } finally {
    device.close();
  }
});

t("users that own no query sequence get a gradient of exactly zero", async () => {
  const c = { heads: 2, headSize: 8, queryLength: 4, keyLengths: [4, 6, 2], owner: [2, 0, 2] };
  const { dk, dv } = await run(gpu, c);
  for (const gradient of [dk, dv]) {
    assert.ok(gradient.subarray(4 * 16, 10 * 16).every((x) => x === 0));
    assert.ok(gradient.subarray(0, 4 * 16).every((x) => x !== 0));
  }
});

t("a user gives the same bits alone and among others, every time", async () => {
  const c = { heads: 2, headSize: 16, queryLength: 7, keyLengths: [5, 39, 21], owner: [0, 1, 1, 2, 1] };
  const together = await run(gpu, c);
  assert.equal(await run(gpu, c), together, "repeated");
  const { q, k, v, dO } = inputs(c);
  // User 1: query sequences 1, 2 and 4, keys 5 to 43.
  const width = 32;
  const pick = (x: Float32Array, sequence: number) =>
    x.slice(sequence * 7 * width, (sequence + 1) * 7 * width);
  const join = (x: Float32Array) => {
    const out = new Float32Array(3 * 7 * width);
    [1, 2, 4].forEach((s, i) => {
      out.set(pick(x, s), i * 7 * width);
    });
    return out;
  };
  const keys = (x: Float32Array<ArrayBuffer>) => x.slice(5 * width, 44 * width);
  const alone = await run(
    gpu,
    { ...c, keyLengths: [39], owner: [0, 0, 0] },
    { q: join(q), k: keys(k), v: keys(v), dO: join(dO) },
  );
  assert.equal(alone.o, join(together.o));
  assert.equal(alone.dq, join(together.dq));
  assert.equal(alone.dk, keys(together.dk as Float32Array<ArrayBuffer>));
  assert.equal(alone.dv, keys(together.dv as Float32Array<ArrayBuffer>));
});

t("no query sequences: every key gradient is zero", async () => {
  const { o, dk, dv } = await run(gpu, {
    heads: 1,
    headSize: 8,
    queryLength: 3,
    keyLengths: [2, 9],
    owner: [],
  });
  assert.is(o.length, 0);
  assert.ok([...dk, ...dv].every((x) => x === 0));
  assert.is(dk.length, 88);
});

t("an owner without keys is refused", () => {
  const step = gpu.step("refused");
  const x = whole(step.tensor([3, 8]));
  const shape = { heads: 1, headSize: 8, queryLength: 3 };
  assert.throws(
    () => crossAttention(step, { q: x, k: x, v: x }, { keyLengths: [3, 0], owner: [1] }, shape),
    /query sequence 0 reads the keys of user 1, who has none/,
  );
  return step.submit();
});

t.run();
