import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ADAM, Adam } from "../src/autograd/adam.ts";
import { UserError } from "../src/files/user-error.ts";
import { ANY_GPU } from "../src/gpu/counting-device.ts";
import { Gpu } from "../src/gpu/device.ts";
import { Laser } from "../src/laser/laser.ts";
import { parseDecoderConfig, readDecoderConfig } from "../src/llm/config.ts";
import { loadDecoder } from "../src/llm/load.ts";
import { checkMemory, describeMemory, type MemoryPlan, totalBytes } from "../src/llm/memory.ts";
import { PUBLISHED } from "../src/llm/published.ts";
import { type Config, checkConfig, defaultConfig } from "../src/train/config.ts";
import { encodingStep, planMemory, type TextSize, type Workload } from "../src/train/memory.ts";
import { declareRecommender } from "../src/train/recommender-file.ts";
import { PRETRAIN } from "../src/train/recommender-settings.ts";
import { repositoryPath } from "./shared.ts";

const t = suite("the account of memory");

const ITEMS = 40;
const config = (change: Partial<Config> = {}): Config =>
  checkConfig(
    {
      ...defaultConfig(),
      queryTokens: 2,
      experts: 3,
      activeExperts: 2,
      mformerWidth: 16,
      mformerBlocks: 2,
      mformerHeads: 2,
      batchSize: 3,
      tokenBudget: 300,
      ...change,
    },
    "the test",
  );
const BATCH: TextSize[] = [7, 12, 9].map((tokens, i) => ({ tokens, items: i + 1 }));
const RECOMMENDER = { ...PRETRAIN.bert4rec, width: 8, blocks: 1 };

/** What the GPU really holds after a step of training and one of encoding. */
async function held(gpu: Gpu, directory: string, { config, batch, encoded }: Workload): Promise<number> {
  const decoder = await loadDecoder(gpu, directory, { weights: config.weights });
  const recommender = declareRecommender(ITEMS, RECOMMENDER);
  recommender.parameters.build(gpu, 1);
  const collaborative: ConstructorParameters<typeof Laser>[2] = (step, histories) =>
    recommender.hiddenStates(step, histories);
  const laser = new Laser(config, decoder, collaborative, recommender.width);
  laser.parameters.build(gpu, 1);
  const adam = new Adam(gpu, laser.parameters, ADAM);
  const width = decoder.hiddenSize;
  const items = gpu.parameter([ITEMS, width], "f32", new Float32Array(ITEMS * width).fill(width ** -0.5));
  const texts = (sizes: readonly TextSize[]) =>
    sizes.map(({ tokens, items }) => ({
      ids: Uint32Array.from({ length: tokens }, (_, i) => 3 + i),
      items: Array.from({ length: items }, (_, i) => i),
    }));
  const loss = { temperature: 0.05, lambda: 0.1, loadBalancing: "sequence" as const };
  const train = gpu.step("train");
  const targets = Uint32Array.from(batch, (_, i) => i);
  const { iicSum } = laser.trainStep(train, texts(batch), targets, items, loss, { seed: 1, step: 0 });
  const read = train.readFloats(iicSum);
  adam.update(train, 1e-4);
  await train.submit();
  assert.ok(Number.isFinite((await read)[0]));
  const encode = gpu.step("encode");
  laser.encode(encode, texts(encoded));
  await encode.submit();
  return gpu.buffers.bytes;
}

const VARIANTS: [checkpoint: string, change: Partial<Config>][] = [
  ["gpt2-tiny", { weights: "f32" }],
  ["gpt2-tiny", { prefix: "free", weights: "int4" }],
  ["llama-tiny", {}],
  ["llama-tiny", { weights: "int8" }],
  ["llama-tiny-sharded", { prefix: "none", suffixTokens: 2 }],
  ["llama3-tiny", { projection: true }],
  ["chatglm2-tiny", {}],
  ["mistral-tiny", { pooling: "mean" }],
  ["qwen2-tiny", { moe: "ffn" }],
  ["qwen3-tiny", { weights: "f32" }],
];
for (const [name, change] of VARIANTS) {
  t(`${name} ${JSON.stringify(change)}: to the byte what real steps hold`, async () => {
    const directory = repositoryPath(`test/reference/dumps/${name}`);
    const backbone = await readDecoderConfig(directory);
    const asked = config(change);
    const encoded = encodingStep(asked, 6, ITEMS);
    const workload = {
      config: asked,
      backbone,
      recommender: RECOMMENDER,
      items: ITEMS,
      batch: BATCH,
      encoded,
    };
    using gpu = await Gpu.open();
    const plan = await planMemory(gpu.traits, workload);
    assert.is(totalBytes(plan), await held(gpu, directory, workload));
    for (const part of plan.parts) assert.ok(part.bytes >= 0, `${part.name} has ${part.bytes} bytes`);
  });
}

const llama2 = (batchSize: number): Workload => {
  const asked = config({ batchSize, tokenBudget: 8192 });
  return {
    config: asked,
    backbone: parseDecoderConfig("llama2", PUBLISHED.llama2.config),
    recommender: PRETRAIN.bert4rec,
    items: 1000,
    batch: new Array<TextSize>(batchSize).fill({ tokens: 253, items: 10 }),
    encoded: encodingStep(asked, 60, 1000),
  };
};

t("a run on Llama 2 7B, of which nothing is at hand", async () => {
  const plan = await planMemory(ANY_GPU, llama2(4));
  const bytes = (name: string) => plan.parts.find((part) => part.name === name)!.bytes;
  // 6.6 billion weights without the head, two bytes each; norms four.
  assert.is(bytes("backbone weights"), 2 * (6_738_415_616 - 131_072_000) + 2 * 4096 * 65);
  assert.is(bytes("item embeddings"), 1000 * 4096 * 4);
  // 4 x 256 tokens with the virtual ones: 16 MiB a layer, which is a size of the pool's own.
  assert.is(bytes("kept layer inputs"), 32 * 4 * 1024 * 4096);
  assert.match(describeMemory(plan), /^needs about \d+\.\d+ GiB of memory: backbone weights 12\.3/);
  const twice = await planMemory(ANY_GPU, llama2(8));
  assert.is(twice.parts.find(({ name }) => name === "kept layer inputs")!.bytes, 64 * 4 * 1024 * 4096);
});

t("Llama 2 7B in int4 trains within 8 GB: the paper's M-Former, batches of four, 20,000 items", async () => {
  const asked = checkConfig({ ...defaultConfig(), weights: "int4", tokenBudget: 2048 }, "the test");
  const plan = await planMemory(ANY_GPU, {
    config: asked,
    backbone: parseDecoderConfig("llama2", PUBLISHED.llama2.config),
    recommender: PRETRAIN.bert4rec,
    items: 20_000,
    // Ten items in the paper's template: the embedded shop's longest has 288 tokens, movielens' 272.
    batch: new Array<TextSize>(asked.batchSize).fill({ tokens: 330, items: 10 }),
    encoded: encodingStep(asked, 60, 20_000),
  });
  const bytes = (name: string) => plan.parts.find((part) => part.name === name)!.bytes;
  assert.is(asked.batchSize, 4);
  // Linear weights: half a byte, and two bytes for 64. The table of embeddings in f16, norms in f32.
  const table = 32_000 * 4096;
  const linear = 6_738_415_616 - 2 * table - 65 * 4096;
  assert.is(bytes("backbone weights"), linear * (1 / 2 + 2 / 64) + 2 * table + 4 * 65 * 4096);
  assert.is(bytes("item embeddings"), 20_000 * 4096 * 4);
  assert.ok(totalBytes(plan) < 8e9, describeMemory(plan));
  console.log(`Llama 2 7B in int4 ${describeMemory(plan)}`);
});

t("what one buffer or binding cannot hold is refused, with what to make smaller", async () => {
  const refusal = async (traits: Partial<typeof ANY_GPU>, workload = llama2(4)) => {
    const error = await planMemory({ ...ANY_GPU, ...traits, name: "test adapter" }, workload).catch((e) => e);
    assert.instance(error, UserError);
    return (error as Error).message;
  };
  const mib = 2 ** 20;
  assert.match(
    await refusal({ maxBufferBytes: 100 * mib }),
    /^backbone weights of this run cannot be had .*test adapter.*; use a smaller backbone/,
  );
  const many = { ...llama2(4), items: 3_000_000 };
  assert.match(
    await refusal({ maxBufferBytes: 2 ** 32 }, many),
    /^item embeddings of this run .*use fewer items/,
  );
  const training = await refusal({ maxBindingBytes: 20 * mib });
  assert.match(training, /^a training step cannot be had .*binding.*; use a smaller --batch-size/);
  const encoding = await refusal({ maxBindingBytes: 200 * mib });
  assert.match(encoding, /^encoding, .* cannot be had .*; use a smaller --token-budget/);
});

t("what main memory cannot hold is refused on a software adapter", () => {
  const plan: MemoryPlan = {
    parts: [
      { name: "backbone weights", bytes: 1000, advice: "a smaller backbone" },
      { name: "kept layer inputs", bytes: 4000, advice: "a smaller --batch-size" },
    ],
    pool: [],
  };
  const traits = { ...ANY_GPU, name: "test adapter", software: true };
  checkMemory(plan, traits, 5000);
  assert.throws(
    () => checkMemory(plan, traits, 4999),
    /needs about 4\.9 KiB .*\(test adapter\) .*main memory, .* free; use a smaller --batch-size or a GPU/,
  );
  // A GPU's memory is not known beforehand: running out of it is an error when it happens.
  checkMemory(plan, ANY_GPU, 4999);
});

t.run();
