// Makes the embedded backbone, weights/shop-llama: a tiny Llama in Hugging Face layout with its tokenizer, trained by
// this project's engine on texts of generated shops (src/data/shop.ts) whose seeds differ from every shop that a user
// meets: same words, other items, other users, other hidden partners.
//
// A text is the template over a piece of a user's history or over one item. It stands in for what a real language model
// knows: how such lists go on, and what the template asks for, "summarize the user's characteristics into a single
// token". So every text ends in a token after which single words are right: for one item those that say what it is, for
// a history those of the last things bought and of the two things that the user bought next. The last token is mostly
// one that the model does not know (<unk>, whose embedding is kept at zero, with noise in its place), which is what
// Laser's suffix is at first; or a question (theme, item, brand, category), which only words of that kind answer, so
// that a suffix has something to learn. Some texts begin with notes, a few words that belong to the answer as well: so
// does what Laser's prefix says. Others begin with unknown tokens, so that an untrained prefix does not throw the model
// off. Nothing of the hidden purchase graph (other shops have other partners), and nothing of the demo's shop, is in
// these texts.
//
//   node weights/make-shop-llama.mjs [--updates 2400] [--out weights/shop-llama]
//
// About 20 minutes on two cores with lavapipe.
import { mkdirSync, writeFileSync } from "node:fs";
import {
  ADAM,
  Adam,
  DEPARTMENTS,
  Gpu,
  generateShop,
  historyText,
  loadTokenizer,
  Random,
  THEMES,
  TrainableLlama,
  writeSafetensors,
} from "../dist/index.js";
import { trainTokenizer } from "./bpe.mjs";
import { scriptArguments, stop } from "./script.mjs";

const { values: args } = scriptArguments(
  {
    updates: { type: "string", default: "2400" },
    out: { type: "string", default: "weights/shop-llama" },
    rate: { type: "string", default: "4e-3" },
  },
  { counts: ["updates"] },
);
const updates = Number(args.updates);
if (!(Number(args.rate) > 0)) stop(`--rate ${args.rate}: expected a learning rate above zero`);
const SIZES = {
  hiddenSize: 64,
  layers: 3,
  heads: 4,
  keyValueHeads: 4,
  intermediateSize: 128,
  normEpsilon: 1e-5,
  ropeTheta: 10000,
};
const POSITIONS = 512;
/** <unk>. */
const UNKNOWN = 0;
const BATCH_TOKENS = 3000;

/** Weight of next-token prediction against the summaries. */
const TOKEN_WEIGHT = 0.5;
/** Words drawn for the end of each text. */
const WORDS = 8;
/** Share of the texts that end in the unknown token; the others end in a question. */
const UNASKED = 0.6;
/** Share of the texts that begin with notes, and how many words at most. */
const NOTED = 0.4;
const MOST_NOTES = 4;
/** Share of the texts that begin with unknown tokens, and how many at most. */
const PREFIXED = 0.2;
const MOST_BEFORE = 8;
/** Weight of an item's words against those of the item bought after it; of the next thing, and the one after. */
const RECENCY = 0.6;
const NEXT = [0.7, 0.5];
/**
 * Short texts first: reading words off one item is learned in a few hundred updates, and histories build on it. Until
 * a share of the updates: the share of texts that show one item, the most items of the others, and the share without
 * the template's instruction (most of it is the same forty tokens).
 */
const STAGES = [
  { until: 0.3, single: 0.9, longest: 3, bare: 0.9 },
  { until: 0.6, single: 0.5, longest: 4, bare: 0.8 },
  { until: 1, single: 0.4, longest: 6, bare: 0.7 },
];

/** What a text can be asked, and the word of an item that answers. */
const QUESTIONS = {
  theme: ({ title }) => title.split(" ").find((word) => IS_THEME.has(word)),
  item: ({ title }) => title.split(" ").findLast((word) => IS_NOUN.has(word)),
  brand: ({ brand }) => brand,
  category: ({ category }) => category,
};
const IS_THEME = new Set(THEMES);
const IS_NOUN = new Set(DEPARTMENTS.flatMap(({ nouns }) => nouns));
const KINDS = Object.keys(QUESTIONS);
/** What a shopper's last things tell of the next: not what kind of thing it is, since nobody buys the same again. */
const LASTING = KINDS.filter((kind) => kind !== "item");

/**
 * Texts of one shop, one a user: `before` (null for an unknown token), text, `question` (null for the unknown token)
 * and the words at the end. No seed here can be a number, as a user's is.
 */
function* textsOf(shop, { single, longest, bare }) {
  const { items, sequences } = generateShop({ seed: `backbone ${shop}` }).dataset;
  const random = new Random("backbone texts", shop);
  for (const u of random.permutation(sequences.length)) {
    const sequence = Array.from(sequences[u], (item) => items[item]);
    const question = random.uniform() < UNASKED ? null : random.pick(KINDS);
    const right = [];
    const add = (item, kinds, weight) => {
      for (const kind of kinds)
        if (question === null || kind === question) right.push({ word: QUESTIONS[kind](item), weight });
    };
    let shown = [random.pick(sequence)];
    if (random.uniform() < single) add(shown[0], KINDS, 1);
    else {
      const length = 2 + random.below(longest - 1);
      const end = 2 + random.below(sequence.length - 2);
      shown = sequence.slice(Math.max(0, end - length), end);
      shown.forEach((item, i) => {
        add(item, LASTING, RECENCY ** (shown.length - 1 - i));
      });
      sequence.slice(end, end + NEXT.length).forEach((item, k) => {
        add(item, KINDS, NEXT[k]);
      });
    }
    const before = [];
    const begins = random.uniform();
    if (begins < NOTED) {
      const weight = right.reduce((sum, each) => sum + each.weight, 0) / 4;
      for (let count = 1 + random.below(MOST_NOTES); count > 0; count--) {
        const kind = random.pick(KINDS);
        const word = QUESTIONS[kind](random.pick(items));
        before.push(word);
        if (question === null || kind === question) right.push({ word, weight });
      }
    } else if (begins < NOTED + PREFIXED) before.push(...new Array(1 + random.below(MOST_BEFORE)).fill(null));
    const template = random.uniform() < bare ? "no-instruction" : "paper";
    const weights = right.map(({ weight }) => weight);
    yield {
      before,
      text: historyText(shown, { template, maxHistory: shown.length }),
      question,
      words: Array.from({ length: WORDS }, () => right[random.weighted(weights)].word),
    };
  }
}

mkdirSync(args.out, { recursive: true });
const trained = trainTokenizer(
  [0, 1].flatMap((shop) => [...textsOf(shop, STAGES.at(-1))].map(({ text }) => `${text} ${KINDS.join(" ")}`)),
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

/** The token of a word. */
function tokenOf(word) {
  const ids = tokenizer.encode(` ${word}`);
  if (ids.length !== 1) throw new Error(`the tokenizer splits "${word}"`);
  return ids[0];
}

/** A text in token ids. */
function encoded({ before, text, question, words }) {
  const known = (word) => (word === null ? UNKNOWN : tokenOf(word));
  return {
    ids: Uint32Array.from([
      ...before.map(known),
      ...tokenizer.leading,
      ...tokenizer.encode(text),
      known(question),
    ]),
    from: before.length,
    words: words.map(tokenOf),
  };
}

/** Noise in place of the unknown tokens' embeddings, each of a random strength; zero elsewhere. */
function noiseOf(batch, random) {
  const width = SIZES.hiddenSize;
  const ids = batch.flatMap((text) => [...text.ids]);
  const noise = new Float32Array(ids.length * width);
  ids.forEach((id, row) => {
    if (id !== UNKNOWN) return;
    const strength = 0.02 * 10 ** random.uniform();
    for (let i = 0; i < width; i++) noise[row * width + i] = strength * random.normal();
  });
  return noise;
}

const gpu = await Gpu.open();
const model = new TrainableLlama({ ...SIZES, vocabularySize });
model.parameters.build(gpu, 1);
const adam = new Adam(gpu, model.parameters, { ...ADAM, beta2: 0.95, clip: 1, weightDecay: 0.01 });
console.log(`vocabulary ${vocabularySize}, parameters ${model.parameters.count}, on ${gpu.adapterName}`);

/** Batches of whole texts, of about BATCH_TOKENS tokens, shop after shop; the stage may change with each shop. */
function* batches() {
  let batch = [];
  let tokens = 0;
  for (let shop = 2; ; shop++) {
    const stage = STAGES.find(({ until }) => update / updates < until);
    for (const text of textsOf(shop, stage)) {
      batch.push(encoded(text));
      tokens += batch.at(-1).ids.length;
      if (tokens < BATCH_TOKENS) continue;
      yield batch;
      batch = [];
      tokens = 0;
    }
  }
}

/** Reads the mean losses of a step: next tokens, summaries. */
async function means(step, { tokens, words }) {
  const reads = [tokens, words].map(({ sums }) => sums.map((sum) => step.readFloats(sum)));
  await step.submit();
  const totals = await Promise.all(
    reads.map(async (list) => (await Promise.all(list)).reduce((sum, [value]) => sum + value, 0)),
  );
  return { tokens: totals[0] / tokens.count, words: totals[1] / words.count };
}

const heldOut = [...textsOf(1, STAGES.at(-1))].slice(0, 60).map(encoded);
async function evaluate() {
  const step = gpu.step("evaluate");
  const noise = noiseOf(heldOut, new Random("held out"));
  return means(step, model.trainStep(step, heldOut, noise, { tokenWeight: 1, gradients: false }));
}
const written = ({ tokens, words }) => `next token ${tokens.toFixed(4)}, summary ${words.toFixed(4)}`;

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
  const losses = model.trainStep(step, batch, noiseOf(batch, new Random("noise", update)), {
    tokenWeight: TOKEN_WEIGHT,
    gradients: true,
  });
  adam.update(step, rate);
  const mean = await means(step, losses);
  if (!Number.isFinite(mean.tokens + mean.words)) throw new Error(`update ${update}: the loss is not finite`);
  tokens += batch.reduce((sum, text) => sum + text.ids.length, 0);
  if (update++ % 50 === 0) {
    const seconds = (performance.now() - began) / 1000;
    console.log(
      `${(100 * progress).toFixed(1)} %  update ${update}  ${written(mean)}; held out ${written(await evaluate())}; ${Math.round(tokens / seconds)} tokens/s`,
    );
  }
}
console.log(`held out: ${written(await evaluate())}, after ${update} updates, ${tokens} tokens`);
gpu.write(unknownEmbedding, new Float32Array(SIZES.hiddenSize));
const parameters = model.parameters.split(await gpu.read(model.parameters.values));
await writeSafetensors(
  `${args.out}/model.safetensors`,
  [...parameters].map(([name, { shape, data }]) => ({ name, dtype: "F32", shape, data })),
  { format: "pt" },
);
gpu.close();
