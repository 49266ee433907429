// Makes the embedded backbone, weights/shop-llama: a tiny Llama in Hugging Face layout with its tokenizer, trained by
// this project's engine on texts of generated shops (src/data/shop.ts) whose seeds differ from every shop that a user
// meets: same words, other items, other users, other hidden partners.
//
// A text is the template over a piece of a user's history or over one item. It stands in for two things that a real
// language model knows: how such lists go on, and what the template asks for, "summarize the user's characteristics
// into a single token". For the second, most texts end in a token that the model does not know (<unk>, whose embedding
// is kept at zero, with noise in its place) followed by keywords: words of the items shown, the newer the likelier. So
// an unknown token at the end, which is what Laser's suffix is at first, gathers what the text is about. Half of the
// texts begin with a few unknown tokens as well, so that a prefix does not throw the model off. Nothing of the hidden
// purchase graph, and nothing of the demo's shop, is in these texts.
//
//   node weights/make-shop-llama.mjs [--updates 600] [--out weights/shop-llama]
//
// About 5 minutes on two cores with lavapipe.
import { mkdirSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import {
  ADAM,
  Adam,
  DEPARTMENTS,
  Gpu,
  generateShop,
  historyText,
  loadTokenizer,
  MATERIALS,
  Random,
  THEMES,
  TrainableLlama,
  writeSafetensors,
} from "../dist/index.js";
import { trainTokenizer } from "./bpe.mjs";

const { values: args } = parseArgs({
  options: {
    updates: { type: "string", default: "600" },
    out: { type: "string", default: "weights/shop-llama" },
    rate: { type: "string", default: "4e-3" },
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
/** <unk>. */
const UNKNOWN = 0;
const BATCH_TOKENS = 3000;

/** Share of the texts that end in an unknown token and keywords; the others simply end. */
const SUMMARISED = 0.9;
/** Share of the texts that begin with unknown tokens, and how many at most. */
const PREFIXED = 0.5;
const MOST_BEFORE = 8;
/** Share of the texts that show one item alone. */
const SINGLE = 0.5;
/** Share of the texts without the template's instruction: most of it is the same forty tokens. */
const BARE = 0.7;
const KEYWORDS = 12;
/** Weight of an item's words against those of the item after it. */
const RECENCY = 0.7;

/** The words that say what an item is: theme, material, noun (the title's middle), brand and category. */
function keywords(item) {
  const words = item.title.split(" ").filter((word) => TELLING.has(word));
  return [...words, item.brand, item.category].filter(Boolean);
}
const TELLING = new Set([...THEMES, ...MATERIALS, ...DEPARTMENTS.flatMap(({ nouns }) => nouns)]);

/** Texts of one shop, each with the keywords that follow it, or null. No seed here can be a number, as a user's is. */
function* textsOf(shop) {
  const { items, sequences } = generateShop({ seed: `backbone ${shop}` }).dataset;
  const random = new Random("backbone texts", shop);
  for (const u of random.permutation(sequences.length)) {
    const sequence = [...sequences[u]];
    const length = random.uniform() < SINGLE ? 1 : 2 + random.below(5);
    const last = 1 + random.below(sequence.length);
    const shown = sequence.slice(Math.max(0, last - length), last).map((i) => items[i]);
    const weights = shown.map((_, i) => RECENCY ** (shown.length - 1 - i));
    const words = Array.from({ length: KEYWORDS }, () =>
      random.pick(keywords(shown[random.weighted(weights)])),
    );
    const template = random.uniform() < BARE ? "no-instruction" : "paper";
    const text = historyText(shown, { template, maxHistory: shown.length });
    const before = random.uniform() < PREFIXED ? 1 + random.below(MOST_BEFORE) : 0;
    yield { text, words: random.uniform() < SUMMARISED ? ` ${words.join(" ")}` : null, before };
  }
}

mkdirSync(args.out, { recursive: true });
const trained = trainTokenizer(
  [0, 1].flatMap((shop) => [...textsOf(shop)].map(({ text, words }) => text + (words ?? ""))),
  { most: 2048, least: 2 },
);
const vocabularySize = Object.keys(trained.model.vocab).length;
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
writeFileSync(`${args.out}/tokenizer.json`, `${JSON.stringify(trained)}\n`);
const tokenizer = await loadTokenizer(args.out);

/** Token ids of a text, with unknown tokens in front of some and between a text and its keywords. */
function encoded({ text, words, before }) {
  const ids = [...new Array(before).fill(UNKNOWN), ...tokenizer.leading, ...tokenizer.encode(text)];
  if (words) ids.push(UNKNOWN, ...tokenizer.encode(words));
  return Uint32Array.from(ids);
}

/** Noise in place of the unknown tokens' embeddings, each of a random strength; zero elsewhere. */
function noiseOf(batch, random) {
  const width = SIZES.hiddenSize;
  const noise = new Float32Array(batch.reduce((sum, ids) => sum + ids.length, 0) * width);
  let row = 0;
  for (const ids of batch) {
    for (const id of ids) {
      if (id === UNKNOWN) {
        const strength = 0.02 * 10 ** random.uniform();
        for (let i = 0; i < width; i++) noise[row * width + i] = strength * random.normal();
      }
      row++;
    }
  }
  return noise;
}

const gpu = await Gpu.open();
const model = new TrainableLlama({ ...SIZES, vocabularySize });
model.parameters.build(gpu, 1);
const adam = new Adam(gpu, model.parameters, { ...ADAM, beta2: 0.95, clip: 1, weightDecay: 0.01 });
console.log(`vocabulary ${vocabularySize}, parameters ${model.parameters.count}, on ${gpu.adapterName}`);

/** Batches of whole texts, of about BATCH_TOKENS tokens: shop after shop. */
function* batches() {
  let batch = [];
  let tokens = 0;
  for (let shop = 2; ; shop++) {
    for (const text of textsOf(shop)) {
      batch.push(encoded(text));
      tokens += batch.at(-1).length;
      if (tokens >= BATCH_TOKENS) {
        yield batch;
        batch = [];
        tokens = 0;
      }
    }
  }
}

const heldOut = [...textsOf(1)].slice(0, 60).map(encoded);
async function evaluate() {
  const step = gpu.step("evaluate");
  const noise = noiseOf(heldOut, new Random("held out"));
  const { loss, count } = model.trainStep(step, heldOut, noise, false);
  const read = step.readFloats(loss);
  await step.submit();
  return (await read)[0] / count;
}

/** The first row of the embedding. */
const unknownEmbedding = model.parameters.list[0].value.rows(UNKNOWN, UNKNOWN + 1);
const source = batches();
const began = performance.now();
let tokens = 0;
let update = 0;
// Warm-up over the first 2 % of the updates, cosine to a tenth at the end.
while (update < updates) {
  const progress = update / updates;
  const batch = source.next().value;
  gpu.write(unknownEmbedding, new Float32Array(SIZES.hiddenSize));
  const rate =
    Number(args.rate) *
    Math.min(1, progress / 0.02 + 0.01) *
    (0.1 + 0.45 * (1 + Math.cos(Math.PI * progress)));
  const step = gpu.step("train");
  const { loss, count } = model.trainStep(step, batch, noiseOf(batch, new Random("noise", update)));
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
gpu.write(unknownEmbedding, new Float32Array(SIZES.hiddenSize));
const parameters = model.parameters.split(await gpu.read(model.parameters.values));
await writeSafetensors(
  `${args.out}/model.safetensors`,
  [...parameters].map(([name, { shape, data }]) => ({ name, dtype: "F32", shape, data })),
  { format: "pt" },
);
gpu.close();
