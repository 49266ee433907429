import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../src/data/random.ts";
import { writeSafetensors } from "../src/files/safetensors.ts";
import { parseDecoderConfig } from "../src/llm/config.ts";
import { sourceTensors, weightSources } from "../src/llm/decoder-weights.ts";

/** config.json of the random backbone. */
export const TINY_LLAMA = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 98,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  bos_token_id: 1,
  eos_token_id: 2,
  tie_word_embeddings: true,
};

/** Writes a random two-layer Llama in Hugging Face layout, whose tokenizer knows single ASCII characters. */
export async function writeTinyBackbone(folder: string): Promise<string> {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify(TINY_LLAMA));
  const vocab: Record<string, number> = { "<unk>": 0, "<s>": 1, "</s>": 2 };
  for (const text of ["\n", ...Array.from({ length: 94 }, (_, i) => String.fromCharCode(32 + i))]) {
    vocab[text] = Object.keys(vocab).length;
  }
  const special = (content: string, id: number) => ({ id, content, special: true, normalized: false });
  const tokenizer = {
    version: "1.0",
    added_tokens: [special("<unk>", 0), special("<s>", 1), special("</s>", 2)],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: null,
    model: { type: "BPE", unk_token: "<unk>", vocab, merges: [], byte_fallback: false, fuse_unk: false },
  };
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(tokenizer));
  const random = new Random(1, "tiny backbone");
  const sources = weightSources(parseDecoderConfig("config.json", TINY_LLAMA));
  const tensors = sourceTensors(sources).map(({ name, shape }) => {
    const count = shape.reduce((a, b) => a * b, 1);
    const norm = shape.length === 1;
    const data = Float32Array.from({ length: count }, () => (norm ? 1 : 0) + 0.2 * random.normal());
    return { name, dtype: "F32" as const, shape, data };
  });
  await writeSafetensors(join(folder, "model.safetensors"), tensors);
  return folder;
}

/** Writes interactions.csv and items.csv: users walk around rings of items, so that there is something to learn. */
export function writeTinyData(folder: string, users = 24, items = 20): string {
  mkdirSync(folder, { recursive: true });
  const random = new Random(1, "tiny data");
  const rows = ["user,item,timestamp"];
  for (let u = 0; u < users; u++) {
    let item = random.below(items);
    for (let n = 0; n < 7; n++) {
      rows.push(`user-${u},item-${item},${n}`);
      item = (item + 1 + random.below(2)) % items;
    }
  }
  writeFileSync(join(folder, "interactions.csv"), `${rows.join("\n")}\n`);
  const kinds = ["Tea", "Cup", "Pot", "Jar"];
  const lines = Array.from(
    { length: items },
    (_, i) => `item-${i},${kinds[i % 4]} ${i},Brand ${i % 3},${kinds[i % 4]}s`,
  );
  writeFileSync(join(folder, "items.csv"), `item,title,brand,category\n${lines.join("\n")}\n`);
  return folder;
}

/** Flags of `laser train` that make it as small as it can be. */
export const TINY_TRAIN = [
  ["--template", "no-instruction"],
  ["--max-history", "2"],
  ["--query-tokens", "2"],
  ["--experts", "3"],
  ["--active-experts", "2"],
  ["--mformer-width", "8"],
  ["--mformer-blocks", "2"],
  ["--mformer-heads", "2"],
  ["--batch-size", "8"],
  ["--examples", "random"],
  ["--learning-rate", "1e-3"],
  ["--phase1-epochs", "2"],
  ["--phase2-epochs", "1"],
  ["--checkpoint-steps", "2"],
].flat();

/** Flags of `laser pretrain` likewise. */
export const TINY_PRETRAIN = ["--width", "8", "--heads", "2", "--blocks", "1", "--epochs", "2"];
