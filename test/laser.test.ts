/** Laser on the embedded backbone: its parameters and virtual tokens, its encoder, and that it learns. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ADAM, Adam } from "../src/autograd/adam.ts";
import type { Parameter } from "../src/autograd/parameters.ts";
import { type Dataset, type Item, makeDataset } from "../src/data/dataset.ts";
import type { Step } from "../src/gpu/step.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import type { TokenizedText } from "../src/laser/text.ts";
import { promptBatch } from "../src/llm/prompt.ts";
import { Bert4Rec } from "../src/recommenders/bert4rec.ts";
import { loadBackbone, openBackbone } from "../src/train/backbone.ts";
import { type Config, checkConfig, defaultConfig } from "../src/train/config.ts";
import { encodeAll } from "../src/train/encode.ts";
import { SILENT } from "../src/train/progress.ts";
import { openSession } from "../src/train/session.ts";
import { assertClose, noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import { repositoryPath } from "./shared.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("Laser");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const files = await openBackbone(repositoryPath("weights/shop-llama"));
const backbone = await loadBackbone(gpu, files, "f32", SILENT);
const { decoder } = backbone;
const d = decoder.hiddenSize;

const KINDS = ["mug", "green tea pot", "steel lunch box", "desk lamp"];
const ITEMS: Item[] = Array.from({ length: 24 }, (_, i) => ({
  id: `i${i}`,
  title: `${KINDS[i % KINDS.length]} number ${i}`,
  brand: i % 3 ? "Hollow Oak" : undefined,
}));
const data: Dataset = makeDataset({
  name: "laser test",
  users: ["u"],
  items: ITEMS,
  sequences: [Uint32Array.of(0, 1, 2)],
  provenance: { format: "test", core: 0, duplicates: "keep", dropped: [], files: [], unusedItems: 0 },
});

/** A random recommender serves: what is tested is that Laser reads it, not what it knows. */
const recommender = new Bert4Rec({ items: 24, width: 16, heads: 2, blocks: 1, maxLength: 20, dropout: 0.1 });
recommender.parameters.build(gpu, 5);

const config = (values: Partial<Config> = {}): Config =>
  checkConfig(
    {
      ...defaultConfig(),
      template: "no-instruction",
      queryTokens: 4,
      experts: 4,
      activeExperts: 2,
      mformerWidth: 16,
      mformerBlocks: 2,
      mformerHeads: 2,
      ...values,
    },
    "the test",
  );
const session = (values: Partial<Config> = {}, added: Item[] = []) =>
  openSession({ gpu, config: config(values), dataset: data, recommender, backbone, added });

async function valuesFrom(record: (step: Step) => Tensor): Promise<Float32Array> {
  const step = gpu.step("test");
  const read = step.readFloats(record(step));
  await step.submit();
  return read;
}

const HISTORIES = [[3], [1, 2, 3, 4, 5], [7, 7], [10, 11, 12], [0, 23, 6, 9]];

const shapes = (list: readonly Parameter[]) =>
  Object.fromEntries(
    list.flatMap(({ components }) => components.map(({ name, shape }) => [name, [...shape]])),
  );

/** The sublayer's parameters under the names that checkpoints use. */
function attention(name: string, memory: number): Record<string, number[]> {
  const linear = (part: string, width: number) => ({
    [`${name}.${part}.weight`]: [16, width],
    [`${name}.${part}.bias`]: [16],
  });
  return {
    ...linear("q", 16),
    ...linear("k", memory),
    ...linear("v", memory),
    ...linear("o", 16),
    [`${name}.norm.weight`]: [16],
    [`${name}.norm.bias`]: [16],
  };
}

t("parameters: suffix alone, with a free prefix, or with the M-Former", () => {
  const listed = (values: Partial<Config>) => {
    const { laser, release } = session(values);
    const list = shapes(laser.parameters.list);
    const virtual = laser.addedTokens;
    release();
    return { list, virtual };
  };
  assert.equal(listed({ prefix: "none", suffixTokens: 3 }), { list: { suffix: [3, d] }, virtual: 3 });
  assert.equal(listed({ prefix: "free" }), { list: { suffix: [1, d], prefix: [4, d] }, virtual: 5 });
  const block = (z: number) => ({
    ...attention(`mformer.blocks.${z}.self_attn`, 16),
    ...(z % 2 === 0 ? attention(`mformer.blocks.${z}.cross_attn`, 16) : {}),
    [`mformer.blocks.${z}.up.weight`]: [64, 16],
    [`mformer.blocks.${z}.up.bias`]: [64],
    [`mformer.blocks.${z}.down.weight`]: [16, 64],
    [`mformer.blocks.${z}.down.bias`]: [16],
    [`mformer.blocks.${z}.norm.weight`]: [16],
    [`mformer.blocks.${z}.norm.bias`]: [16],
  });
  const mformer = {
    suffix: [1, d],
    "mformer.experts": [4, 4, 16],
    "mformer.router.weight": [4, 16],
    "mformer.proj_in.weight": [16, 16],
    "mformer.proj_in.bias": [16],
    "mformer.proj_out.weight": [d, 16],
    "mformer.proj_out.bias": [d],
    "mformer.norm.weight": [16],
    "mformer.norm.bias": [16],
    ...block(0),
    ...block(1),
  };
  const sorted = (list: Record<string, number[]>) =>
    Object.entries(list).sort(([a], [b]) => (a < b ? -1 : 1));
  for (const gates of ["weights", "softmax", "normalized"] as const) {
    const { list, virtual } = listed({ prefix: "mformer", gates });
    assert.is(virtual, 5);
    assert.equal(sorted(list), sorted(mformer));
  }
});

t("encode: unit rows, and a batch gives each text the bits it has alone, whatever the prefix", async () => {
  const seen: Float32Array[] = [];
  for (const values of [
    { prefix: "mformer" },
    { prefix: "mformer", gates: "softmax" },
    { prefix: "mformer", gates: "normalized" },
    { prefix: "free" },
    { prefix: "none" },
  ] as const) {
    const { laser, texts, release } = session(values);
    const inputs = HISTORIES.map((history) => texts.user(history));
    const batch = await valuesFrom((step) => laser.encode(step, inputs));
    assert.is(batch.length, HISTORIES.length * d);
    for (const [b, input] of inputs.entries()) {
      const row = batch.slice(b * d, (b + 1) * d);
      assert.equal(await valuesFrom((step) => laser.encode(step, [input])), row, JSON.stringify(values));
      assert.ok(Math.abs(row.reduce((sum, x) => sum + x * x, 0) - 1) < KERNEL_F32);
    }
    // However the texts are spread over steps.
    assert.equal(await encodeAll(gpu, laser, inputs, 40, SILENT, "test"), batch);
    // The prefix and its gates are read.
    for (const other of seen) assert.not.equal(batch, other);
    seen.push(batch);
    release();
  }
});

t("with the M-Former the recommender's view of the items counts, not their text alone", async () => {
  const { laser, texts, release } = session();
  const input = texts.user([1, 2, 3]);
  const other: TokenizedText = { ids: input.ids, items: [1, 2, 9] };
  const encode = (text: TokenizedText) => valuesFrom((step) => laser.encode(step, [text]));
  assert.not.equal(await encode(other), await encode(input));
  release();
  const free = session({ prefix: "free" });
  const plain = (text: TokenizedText) => valuesFrom((step) => free.laser.encode(step, [text]));
  assert.equal(await plain(other), await plain(input));
  free.release();
});

t("two suffix tokens give the mean of their hidden states", async () => {
  const { laser, texts, release } = session({ prefix: "none", suffixTokens: 2 });
  const inputs = HISTORIES.map((history) => texts.user(history));
  const h = await valuesFrom((step) => laser.hidden(step, inputs));
  const suffix = laser.parameters.list[0].value;
  const shape = { prefix: 0, sharedPrefix: false, suffix: 2 };
  const states = await valuesFrom((step) => {
    const ids = inputs.map((input) => input.ids);
    return decoder.forward(step, promptBatch(step, ids, shape), null, suffix, false).hidden;
  });
  assert.is(states.length, 2 * h.length);
  const means = h.map((_, i) => {
    const [b, c] = [Math.floor(i / d), i % d];
    return (states[2 * b * d + c] + states[(2 * b + 1) * d + c]) / 2;
  });
  assertClose("h", h, means, KERNEL_F32);
  assert.not.equal(states.slice(0, d), states.slice(d, 2 * d));
  release();
});

/** Fixed unit vectors for the items. */
function unitRows(): Float32Array<ArrayBuffer> {
  const rows = noise(ITEMS.length * d, 4);
  for (let i = 0; i < ITEMS.length; i++) {
    const row = rows.subarray(i * d, (i + 1) * d);
    const norm = Math.hypot(...row);
    row.forEach((value, c) => {
      row[c] = value / norm;
    });
  }
  return rows;
}

t("thirty steps on eight examples and fixed items lower the loss strongly, with every prefix", async () => {
  // Poisoning every tensor takes as long as the steps themselves; the other tests do it.
  gpu.poison = false;
  // What may be left of the first loss: one vector for all users moves less than a prefix of their own.
  const left = { mformer: 0.4, free: 0.5, none: 0.7 };
  for (const prefix of ["mformer", "free", "none"] as const) {
    const { laser, texts, release } = session({ prefix, dropout: 0 });
    const items = gpu.parameter([ITEMS.length, d], "f32", unitRows());
    const inputs = Array.from({ length: 8 }, (_, u) => texts.user([3 * u, (5 * u + 1) % 24]));
    const targets = Uint32Array.from(inputs, (_, u) => (7 * u + 2) % 24);
    const adam = new Adam(gpu, laser.parameters, ADAM);
    const losses: number[] = [];
    for (let update = 0; update < 30; update++) {
      const step = gpu.step("overfit");
      const loss = { temperature: 0.05, lambda: 0.1, loadBalancing: "sequence" as const };
      const result = laser.trainStep(step, inputs, targets, items, loss, { seed: 1, step: update });
      const read = step.readFloats(result.iicSum);
      adam.update(step, 1e-2);
      await step.submit();
      losses.push((await read)[0] / inputs.length);
    }
    assert.ok(losses.every(Number.isFinite));
    const rest = losses[29] / losses[0];
    assert.ok(rest < left[prefix], `${prefix}: ${losses[0].toFixed(2)} to ${losses[29].toFixed(2)}`);
    adam.release();
    gpu.release(items);
    release();
  }
  gpu.poison = true;
});

t("a training step tells loss, load balancing and expert use; without M-Former only the loss", async () => {
  for (const prefix of ["mformer", "none"] as const) {
    const { laser, texts, release } = session({ prefix });
    const inputs = HISTORIES.map((history) => texts.user(history));
    const step = gpu.step("report");
    const items = step.upload(unitRows(), [ITEMS.length, d]);
    const targets = Uint32Array.of(1, 2, 3, 4, 5);
    const loss = { temperature: 0.05, lambda: 0.1, loadBalancing: "batch" as const };
    const { iicSum, balance, expertUse } = laser.trainStep(step, inputs, targets, items, loss, null);
    assert.equal(iicSum.shape, [1]);
    assert.is(balance === null, prefix === "none");
    assert.is(expertUse === null, prefix === "none");
    const read = expertUse && step.read(expertUse);
    const balanced = balance && step.readFloats(balance);
    await step.submit();
    if (read && balanced) {
      // Every position of every history falls to one expert.
      const counts = (await read) as Uint32Array;
      const sums = HISTORIES.map((_, b) => counts.slice(4 * b, 4 * b + 4).reduce((sum, n) => sum + n, 0));
      assert.equal(
        sums,
        HISTORIES.map((history) => history.length),
      );
      assert.ok(Number.isFinite((await balanced)[0]));
    }
    release();
  }
});

t("an added item is embedded as any other item that the recommender does not know", async () => {
  // The same words as item 7, under another index, past the dataset's.
  const added: Item = { ...ITEMS[7], id: "fresh" };
  const { laser, texts, items, release } = session({}, [added]);
  assert.is(items.length, ITEMS.length + 1);
  const embed = async (item: number) =>
    (await encodeAll(gpu, laser, [texts.item(item)], 512, SILENT, "items")) as Float32Array;
  const known = await embed(7);
  const fresh = await embed(ITEMS.length);
  assert.not.equal(fresh, known);
  recommender.setKnown(Uint32Array.from({ length: 24 }, (_, i) => (i === 7 ? 0 : 1)));
  assert.equal(await embed(7), fresh);
  recommender.setKnown(new Uint32Array(24).fill(1));
  assert.equal(await embed(7), known);
  // In a history, too.
  const text = texts.user([1, ITEMS.length]);
  assert.equal(text.items, [1, ITEMS.length]);
  assert.equal(text.ids, texts.user([1, 7]).ids);
  release();
  // Without M-Former its words are all there is to it.
  const free = session({ prefix: "free" }, [added]);
  const rows = await encodeAll(
    gpu,
    free.laser,
    [7, ITEMS.length].map((i) => free.texts.item(i)),
    512,
    SILENT,
    "items",
  );
  assert.equal(rows.slice(0, d), rows.slice(d));
  free.release();
});

t.run();
