/**
 * Attention on tensor cores: on a GPU with subgroup matrices, or Mesa's lavapipe from 25.2 on (test/newer-lavapipe.sh).
 */
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { kernels } from "../src/gpu/kernels.generated.ts";
import { matrixAttention } from "../src/gpu/variants.ts";
import { loadDecoder } from "../src/llm/load.ts";
import { writeRandomCheckpoint } from "../src/llm/random-checkpoint.ts";
import { attendHeads, attendHeadsGradient } from "../src/ops/attend-matrix.ts";
import type { SelfAttentionShape } from "../src/ops/attention.ts";
import { headLayoutOf, packHeads } from "../src/ops/pack-heads.ts";
import { packed } from "../src/ops/packed.ts";
import { attentionReference, sequences } from "./attention-reference.ts";
import { assertClose, noise } from "./close.ts";
import { ids, runDecoder } from "./decoder-case.ts";
import { openTestGpu } from "./gpu.ts";
import { temporaryFolder } from "./temporary.ts";
import { STORAGE } from "./tolerances.ts";

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

const LLAMA = {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 64,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 50,
};
/** Heads that tensor cores take: whole heads rotated in halves, half of a head in neighbours, none, normalised ones. */
const BACKBONES: Readonly<Record<string, Record<string, unknown>>> = {
  llama: LLAMA,
  chatglm2: {
    architectures: ["ChatGLMModel"],
    hidden_size: 64,
    ffn_hidden_size: 48,
    num_layers: 2,
    num_attention_heads: 2,
    kv_channels: 32,
    multi_query_attention: true,
    multi_query_group_num: 1,
    add_qkv_bias: true,
    padded_vocab_size: 50,
    seq_length: 64,
  },
  gpt2: {
    architectures: ["GPT2LMHeadModel"],
    n_embd: 64,
    n_head: 4,
    n_layer: 2,
    n_positions: 64,
    vocab_size: 50,
  },
  qwen3: { ...LLAMA, architectures: ["Qwen3ForCausalLM"], head_dim: 32 },
};

for (const [name, json] of matrix ? Object.entries(BACKBONES) : []) {
  t(`a whole ${name} on tensor cores is the one without`, async () => {
    const directory = join(temporaryFolder(), name);
    await writeRandomCheckpoint(directory, json, { seed: 4, shardBytes: 2 ** 30 });
    const decoder = await loadDecoder(gpu, directory, { weights: "f16" });
    const texts = [1, 14, 30, 3, 1, 9].map((length) => ids(length, 50));
    const on = await runDecoder(gpu, decoder, texts, [0, 1, 2, 3, 4, 5]);
    gpu.subgroupMatrix = null;
    const off = await runDecoder(gpu, decoder, texts, [0, 1, 2, 3, 4, 5]).finally(() => {
      gpu.subgroupMatrix = matrix;
    });
    assertClose("hidden states", on.hidden, off.hidden, STORAGE.f16.model);
    assertClose("gradients", on.gradients, off.gradients, STORAGE.f16.model);
    assert.not.equal(on.hidden, off.hidden, "they are other kernels");
    decoder.release(gpu);
  });
}

t.run();
