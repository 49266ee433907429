// Makes the embedded backbone, weights/shop-llama: a tiny Llama in Hugging Face layout with its tokenizer, trained by
// this project's engine on texts of generated shops (src/data/shop.ts) whose seeds differ from every shop that a user
// meets: same words, other items, other users, other hidden partners. It learns the language of such shops (which
// words make a title, that purchases stay in a style and complement each other), nothing about the demo's shop.
//
//   node weights/make-shop-llama.mjs [--updates 320] [--out weights/shop-llama]
//
// About 10 minutes on two cores with lavapipe.
import { mkdirSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import {
  ADAM,
  Adam,
  Gpu,
  loadTokenizer,
  Random,
  shopTexts,
  TrainableLlama,
  writeSafetensors,
} from "../dist/index.js";
import { trainTokenizer } from "./bpe.mjs";

const { values: args } = parseArgs({
  options: {
    updates: { type: "string", default: "320" },
    out: { type: "string", default: "weights/shop-llama" },
    rate: { type: "string", default: "3e-3" },
  },
});
const updates = Number(args.updates);
const SIZES = {
  hiddenSize: 64,
  layers: 3,
  heads: 4,
  keyValueHeads: 2,
  intermediateSize: 128,
  normEpsilon: 1e-5,
  ropeTheta: 10000,
};
const POSITIONS = 512;
const BATCH_TOKENS = 6000;

/** Texts of one shop, for training; no seed of theirs can be a number, as a user's is. */
const textsOf = (shop) => [...shopTexts({ seed: `backbone ${shop}` })];

mkdirSync(args.out, { recursive: true });
const tokenizer = trainTokenizer([...textsOf(0), ...textsOf(1)], { most: 2048, least: 2 });
const vocabularySize = Object.keys(tokenizer.model.vocab).length;
const config = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: SIZES.hiddenSize,
  intermediate_size: SIZES.intermediateSize,
  num_hidden_layers: SIZES.layers,
  num_attention_heads: SIZES.heads,
  num_key_value_heads: SIZES.keyValueHeads,
  vocab_size: vocabularySize,
  max_position_embeddings: POSITIONS,
  rms_norm_eps: SIZES.normEpsilon,
  rope_theta: SIZES.ropeTheta,
  hidden_act: "silu",
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: "float32",
};
writeFileSync(`${args.out}/config.json`, `${JSON.stringify(config, null, 2)}\n`);
writeFileSync(`${args.out}/tokenizer.json`, `${JSON.stringify(tokenizer)}\n`);
const { encode, leading } = await loadTokenizer(args.out).then((t) => ({
  encode: (s) => t.encode(s),
  leading: t.leading,
}));
const ids = (text) => Uint32Array.from([...leading, ...encode(text)]).slice(0, POSITIONS);

const gpu = await Gpu.open();
const model = new TrainableLlama({ ...SIZES, vocabularySize });
model.parameters.build(gpu, 1);
const adam = new Adam(gpu, model.parameters, { ...ADAM, beta2: 0.95, clip: 1, weightDecay: 0.01 });
console.log(`vocabulary ${vocabularySize}, parameters ${model.parameters.count}, on ${gpu.adapterName}`);

/** Batches of whole texts, of about BATCH_TOKENS tokens: shop after shop, each in a random order. */
function* batches() {
  for (let shop = 2; ; shop++) {
    let batch = [];
    let tokens = 0;
    for (const text of new Random(shop, "texts").shuffle(textsOf(shop))) {
      const encoded = ids(text);
      batch.push(encoded);
      tokens += encoded.length;
      if (tokens >= BATCH_TOKENS) {
        yield batch;
        batch = [];
        tokens = 0;
      }
    }
  }
}

async function evaluate() {
  const texts = textsOf(1).slice(0, 60).map(ids);
  const step = gpu.step("evaluate");
  const { loss, count } = model.trainStep(step, texts, false);
  const read = step.readFloats(loss);
  await step.submit();
  return (await read)[0] / count;
}

const source = batches();
const began = performance.now();
let tokens = 0;
let update = 0;
// Warm-up over the first 2 % of the updates, cosine to a tenth at the end.
while (update < updates) {
  const progress = update / updates;
  const texts = source.next().value;
  const rate =
    Number(args.rate) *
    Math.min(1, progress / 0.02 + 0.01) *
    (0.1 + 0.45 * (1 + Math.cos(Math.PI * progress)));
  const step = gpu.step("train");
  const { loss, count } = model.trainStep(step, texts);
  const read = step.readFloats(loss);
  adam.update(step, rate);
  await step.submit();
  const mean = (await read)[0] / count;
  if (!Number.isFinite(mean)) throw new Error(`update ${update}: the loss is not finite`);
  tokens += count;
  if (update++ % 50 === 0) {
    const seconds = (performance.now() - began) / 1000;
    const held = (await evaluate()).toFixed(4);
    console.log(
      `${(100 * progress).toFixed(1)} %  update ${update}  loss ${mean.toFixed(4)}  held-out ${held}  ${Math.round(tokens / seconds)} tokens/s`,
    );
  }
}
console.log(`held-out loss ${(await evaluate()).toFixed(4)} after ${update} updates, ${tokens} tokens`);
const parameters = model.parameters.split(await gpu.read(model.parameters.values));
await writeSafetensors(
  `${args.out}/model.safetensors`,
  [...parameters].map(([name, { shape, data }]) => ({ name, dtype: "F32", shape, data })),
  { format: "pt" },
);
gpu.close();
