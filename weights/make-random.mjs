// Writes a checkpoint of random weights in the geometry and file layout of a published model, to test loading, memory and
// speed at full size without the real weights:
//
//     node weights/make-random.mjs NAME --out DIR [--tokenizer DIR] [--seed N] [--shard-gb N]
//
// NAME is gpt2, llama2, chatglm2 or any other that `laser plan --help` lists. --tokenizer copies the tokenizer's files
// from a directory of the real model, without which the checkpoint runs in programs but not in `laser train`. Weights are
// made in pieces, so memory stays small; Llama 2 7B takes 13 GB of disk. Files are of the published format, and at most as
// large as published: 10 GB of safetensors, 2 GB of pytorch_model.bin (ChatGLM2's seven).
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PUBLISHED, size, writeRandomCheckpoint } from "../dist/index.js";
import { scriptArguments, stop } from "./script.mjs";

const TOKENIZER_FILES = [
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "vocab.json",
  "merges.txt",
];

const { values, positionals } = scriptArguments(
  {
    out: { type: "string" },
    tokenizer: { type: "string" },
    seed: { type: "string", default: "1" },
    "shard-gb": { type: "string" },
  },
  { operands: true, counts: ["seed", "shard-gb"] },
);
const [name] = positionals;
const published = Object.hasOwn(PUBLISHED, name ?? "") ? PUBLISHED[name] : undefined;
if (!published || !values.out) {
  stop(`usage: node weights/make-random.mjs NAME --out DIR; NAME: ${Object.keys(PUBLISHED).join(", ")}`);
}
const format = published.weights.endsWith(".bin") ? "torch" : "safetensors";
const started = performance.now();
await writeRandomCheckpoint(values.out, published.config, {
  seed: Number(values.seed),
  shardBytes: Number(values["shard-gb"] ?? (format === "torch" ? 2 : 10)) * 1e9,
  format,
  onFile: (file, bytes) => console.log(`${file}: ${size(bytes)}`),
});
if (values.tokenizer) {
  for (const file of TOKENIZER_FILES) {
    const from = join(values.tokenizer, file);
    if (existsSync(from)) writeFileSync(join(values.out, file), readFileSync(from));
  }
}
const seconds = (performance.now() - started) / 1000;
const peak = process.resourceUsage().maxRSS * 1024;
console.log(`${values.out}: ${seconds.toFixed(1)} s, at most ${size(peak)} of host memory`);
