import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { openDecoderCheckpoint } from "../src/llm/checkpoint.ts";
import { readDecoderConfig } from "../src/llm/config.ts";
import { sourceTensors } from "../src/llm/decoder-weights.ts";
import { PUBLISHED } from "../src/llm/published.ts";
import { randomShards, type WeightFormat, writeRandomCheckpoint } from "../src/llm/random-checkpoint.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("random checkpoints");
const folder = temporaryFolder();

const GPT2 = {
  architectures: ["GPT2LMHeadModel"],
  n_embd: 32,
  n_head: 4,
  n_layer: 2,
  n_positions: 16,
  vocab_size: 50,
};
const LLAMA = {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  vocab_size: 50,
  tie_word_embeddings: false,
};

const CHATGLM2 = {
  architectures: ["ChatGLMModel"],
  hidden_size: 32,
  ffn_hidden_size: 48,
  num_layers: 2,
  num_attention_heads: 4,
  kv_channels: 8,
  multi_query_attention: true,
  multi_query_group_num: 2,
  add_qkv_bias: true,
  padded_vocab_size: 50,
  seq_length: 64,
  tie_word_embeddings: false,
};

/** Writes one and reads all its weights. */
async function written(
  name: string,
  json: Record<string, unknown>,
  shardBytes = 2 ** 30,
  seed = 1,
  format: WeightFormat = "safetensors",
) {
  const directory = join(folder, name);
  await writeRandomCheckpoint(directory, json, { seed, shardBytes, format });
  const { checkpoint, sources } = await openDecoderCheckpoint(directory, await readDecoderConfig(directory));
  await using _closed = checkpoint;
  const weights = new Map<string, Float32Array>();
  for (const { name } of sourceTensors(sources)) weights.set(name, await checkpoint.float32(name));
  return { directory, weights, names: checkpoint.names };
}

t("the same values in every dtype, of both signs, within a factor of two; norms are one", async () => {
  const f32 = await written("f32", GPT2);
  for (const [name, values] of f32.weights) {
    const sizes = values.map(Math.abs);
    const most = Math.max(...sizes);
    assert.ok(Math.min(...sizes) > most / 2 - 1e-9, name);
    if (name.includes("ln_") && name.endsWith("weight")) assert.ok(values.every((value) => value === 1));
    else assert.ok(values.some((value) => value < 0) && values.some((value) => value > 0), name);
  }
  for (const torch_dtype of ["float16", "bfloat16"]) {
    assert.equal((await written(torch_dtype, { ...GPT2, torch_dtype })).weights, f32.weights, torch_dtype);
  }
});

t("published extras are there: the untied head, GPT-2's mask buffers", async () => {
  assert.ok((await written("llama", LLAMA)).names.includes("lm_head.weight"));
  assert.not(
    (await written("tied", { ...LLAMA, tie_word_embeddings: true })).names.includes("lm_head.weight"),
  );
  assert.ok((await written("gpt2", GPT2)).names.includes("h.1.attn.bias"));
});

t("shards hold the same; equal arguments give equal files, another seed does not", async () => {
  const whole = await written("whole", LLAMA);
  const shards = await written("shards", LLAMA, 20_000);
  assert.equal(shards.weights, whole.weights);
  const index = JSON.parse(readFileSync(join(shards.directory, "model.safetensors.index.json"), "utf8"));
  assert.ok(new Set(Object.values(index.weight_map)).size > 2);
  const bytes = (directory: string) => readFileSync(join(directory, "model.safetensors"));
  assert.ok(bytes((await written("again", LLAMA)).directory).equals(bytes(whole.directory)));
  assert.not(bytes((await written("other", LLAMA, 2 ** 30, 2)).directory).equals(bytes(whole.directory)));
});

t("as torch.save would: the same weights, in files of the published names", async () => {
  const { weights } = await written("twin", CHATGLM2);
  const whole = await written("bin", CHATGLM2, 2 ** 30, 1, "torch");
  assert.equal(whole.weights, weights);
  assert.equal(readdirSync(whole.directory).sort(), ["config.json", "pytorch_model.bin"]);
  const shards = await written("bin-shards", CHATGLM2, 20_000, 1, "torch");
  assert.equal(shards.weights, weights);
  const files = readdirSync(shards.directory).filter((name) => name.endsWith(".bin"));
  const count = String(files.length).padStart(5, "0");
  assert.ok(files.length > 2 && files.includes(`pytorch_model-00001-of-${count}.bin`), files.join(" "));
  const index = JSON.parse(readFileSync(join(shards.directory, "pytorch_model.bin.index.json"), "utf8"));
  assert.equal([...new Set(Object.values(index.weight_map))].sort(), files.sort());
});

t("ChatGLM2-6B in files of at most 2 GB is the seven that are published", async () => {
  const { config } = PUBLISHED.chatglm2;
  assert.is(randomShards(config, 2e9).length, 7);
});

t.run();
