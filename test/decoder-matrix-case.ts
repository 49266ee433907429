/** Whole decoders on tensor cores, as test/attention-matrix.test.ts and test/emulated-matrices.test.ts run them. */
import { join } from "node:path";
import * as assert from "uvu/assert";
import type { Gpu } from "../src/gpu/device.ts";
import { loadDecoder } from "../src/llm/load.ts";
import { writeRandomCheckpoint } from "../src/llm/random-checkpoint.ts";
import type { WeightStorage } from "../src/llm/weight-stream.ts";
import { assertClose } from "./close.ts";
import { ids, runDecoder } from "./decoder-case.ts";
import { temporaryFolder } from "./temporary.ts";
import { STORAGE } from "./tolerances.ts";

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
export const BACKBONES: Readonly<Record<string, Record<string, unknown>>> = {
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

/** Fails unless a decoder with gpu.subgroupMatrix is the one without, forward and backward. */
export async function checkDecoderOnMatrices(
  gpu: Gpu,
  name: string,
  weights: WeightStorage = "f16",
): Promise<void> {
  const matrix = gpu.subgroupMatrix;
  const directory = join(temporaryFolder(), name);
  await writeRandomCheckpoint(directory, BACKBONES[name], { seed: 4, shardBytes: 2 ** 30 });
  const decoder = await loadDecoder(gpu, directory, { weights });
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
}
