/** BERT4Rec: its cloze training learns what follows what, and as a frozen recommender it reads any history. */
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type Dataset, makeDataset, testCase, trainingCounts } from "../src/data/dataset.ts";
import { Random } from "../src/data/random.ts";
import { mean, recall } from "../src/eval/metrics.ts";
import { rankRecommender } from "../src/eval/rank-recommender.ts";
import { UserError } from "../src/files/user-error.ts";
import type { Gpu } from "../src/gpu/device.ts";
import type { Step } from "../src/gpu/step.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import { Bert4Rec } from "../src/recommenders/bert4rec.ts";
import { loadRecommender, PRETRAIN, type PretrainSettings, pretrain } from "../src/train/pretrain.ts";
import { type Progress, SILENT } from "../src/train/progress.ts";
import { openTestGpu } from "./gpu.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("BERT4Rec");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** Every item but the last is followed by one fixed other; nobody ever meets the last. */
function chains(users: number, items: number): Dataset {
  const random = new Random(1, "chains");
  const next = random.permutation(items - 1);
  const sequences = Array.from({ length: users }, () => {
    let item = random.below(items - 1);
    return Uint32Array.from({ length: 8 }, () => {
      item = next[item];
      return item;
    });
  });
  return makeDataset({
    name: "chains",
    users: sequences.map((_, u) => `u${u}`),
    items: Array.from({ length: items }, (_, i) => ({ id: `i${i}`, title: `Item ${i}` })),
    sequences,
    provenance: { format: "test", core: 0, duplicates: "keep", dropped: [], files: [], unusedItems: 0 },
  });
}

const SMALL: PretrainSettings = { ...PRETRAIN, width: 16, maxLength: 10, batchSize: 64, validateEvery: 2 };
const valuesOf = (model: Bert4Rec) => gpu.read(model.parameters.values) as Promise<Float32Array>;

t("learns a fixed successor from cloze", async () => {
  // Poisoning every tensor costs as much as the training itself; the other tests do it.
  gpu.poison = false;
  const data = chains(300, 101);
  const settings = {
    ...SMALL,
    width: 32,
    dropout: 0.1,
    learningRate: 5e-3,
    epochs: 24,
    patience: 24,
    validateEvery: 24,
  };
  const { model } = await pretrain(gpu, data, settings, join(temporaryFolder(), "a"), SILENT);
  const cases = data.sequences.map((sequence) => testCase(sequence)!);
  const { rank } = await rankRecommender(gpu, model, cases, { excludeSeen: false });
  const hits = mean(rank, (r) => recall(r, 10));
  // By chance: 10 of 101.
  assert.ok(hits > 0.6, `Recall@10 ${hits}`);
  const untrained = new Bert4Rec(model.sizes);
  untrained.parameters.build(gpu, 1);
  const before = await rankRecommender(gpu, untrained, cases, { excludeSeen: false });
  assert.ok(mean(before.rank, (r) => recall(r, 10)) < 0.3);
  gpu.poison = true;
  untrained.release(gpu);
  model.release(gpu);
});

/** Aborts once this many epochs are done. */
function stopAfter(epochs: number): { progress: Progress; signal: AbortSignal } {
  const controller = new AbortController();
  const update = (done: number) => {
    if (done >= epochs) controller.abort();
  };
  return { progress: { ...SILENT, update }, signal: controller.signal };
}

t("the same bits again, after an interruption, and from the cache; other data or seeds differ", async () => {
  const data = chains(80, 30);
  const settings = { ...SMALL, epochs: 4 };
  const folder = () => join(temporaryFolder(), "recommender");
  const whole = folder();
  const first = await pretrain(gpu, data, settings, whole, SILENT);
  const values = await valuesOf(first.model);
  assert.ok(first.bestEpoch === 2 || first.bestEpoch === 4);
  assert.ok(values.every(Number.isFinite));

  const resumed = folder();
  const { progress, signal } = stopAfter(2);
  const half = await pretrain(gpu, data, settings, resumed, progress, signal);
  assert.is(half.interrupted, true);
  assert.is(await loadRecommender(gpu, data, settings, resumed), null);
  const rest = await pretrain(gpu, data, settings, resumed, SILENT);
  assert.is(rest.interrupted, false);
  assert.equal(await valuesOf(rest.model), values);

  const cached = await pretrain(gpu, data, settings, whole, SILENT);
  assert.is(cached.bestEpoch, null);
  assert.equal(await valuesOf(cached.model), values);

  const other = await pretrain(gpu, data, { ...settings, seed: 2 }, folder(), SILENT);
  assert.not.equal(await valuesOf(other.model), values);
  await loadRecommender(gpu, chains(81, 30), settings, whole).then(
    () => assert.unreachable(),
    (error: unknown) => {
      assert.instance(error, UserError);
      assert.match((error as Error).message, /trained on other data/);
    },
  );
  for (const { model } of [first, half, rest, cached, other]) model.release(gpu);
});

/** Runs a recording and reads its result. */
async function valuesFrom(
  on: Gpu,
  record: (step: Step) => Tensor,
): Promise<{ shape: readonly number[]; values: Float32Array }> {
  const step = on.step("test");
  const tensor = record(step);
  const read = step.readFloats(tensor);
  await step.submit();
  return { shape: tensor.shape, values: await read };
}

const ITEMS = 30;
const frozen = new Bert4Rec({ items: ITEMS, width: 16, heads: 2, blocks: 2, maxLength: 12, dropout: 0.5 });
frozen.parameters.build(gpu, 3);
const hidden = (histories: readonly ArrayLike<number>[]) =>
  valuesFrom(gpu, (step) => frozen.hiddenStates(step, histories));

t("hidden states: a row an item; a batch gives each history the bits it has alone", async () => {
  const random = new Random(1, "histories");
  const histories = [1, 12, 5, 1, 7, 12, 3, 9].map((n) =>
    Array.from({ length: n }, () => random.below(ITEMS)),
  );
  const { shape, values } = await hidden(histories);
  assert.equal(shape, [50, 16]);
  let row = 0;
  for (const history of histories) {
    const alone = await hidden([history]);
    assert.equal(alone.shape, [history.length, 16]);
    assert.equal(values.slice(row * 16, (row + history.length) * 16), alone.values);
    row += history.length;
  }
  // No dropout, whatever the model's rate.
  assert.equal((await hidden(histories)).values, values);
});

t("hidden states depend on items before and after, and on their order", async () => {
  const rows = async (history: number[]) => {
    const { values } = await hidden([history]);
    return history.map((_, i) => values.slice(16 * i, 16 * i + 16));
  };
  const [first, , third] = await rows([1, 2, 3]);
  assert.not.equal((await rows([1, 2, 4]))[0], first);
  assert.not.equal((await rows([4, 2, 3]))[2], third);
  assert.not.equal((await rows([2, 1, 3]))[2], third);
});

t("an item it cannot know is read as the mask", async () => {
  const masked = (await hidden([[4, frozen.mask, 6]])).values;
  assert.equal((await hidden([[4, ITEMS + 5, 6]])).values, masked);
  const seen = (await hidden([[4, 5, 6]])).values;
  assert.not.equal(seen, masked);
  // Training never showed item 5.
  const counts = new Uint32Array(ITEMS).fill(2);
  counts[5] = 0;
  frozen.setKnown(counts);
  assert.equal((await hidden([[4, 5, 6]])).values, masked);
  frozen.setKnown(new Uint32Array(ITEMS).fill(1));
  assert.equal((await hidden([[4, 5, 6]])).values, seen);
});

t("pretraining marks the items it never showed", async () => {
  const data = chains(20, 30);
  const counts = trainingCounts(data);
  const never = counts.indexOf(0);
  assert.ok(never >= 0 && counts[29] === 0);
  const { model } = await pretrain(gpu, data, { ...SMALL, epochs: 1 }, join(temporaryFolder(), "b"), SILENT);
  const states = (history: number[]) => valuesFrom(gpu, (step) => model.hiddenStates(step, [history]));
  const known = counts.findIndex((count) => count > 0);
  assert.equal((await states([known, 29])).values, (await states([known, model.mask])).values);
  assert.not.equal((await states([known, known])).values, (await states([known, model.mask])).values);
  model.release(gpu);
});

t(
  "ranking reads the newest items that leave room for the mask; hidden states refuse what is too long",
  async () => {
    const long = Array.from({ length: 40 }, (_, i) => i % ITEMS);
    const ranked = (histories: number[][]) => valuesFrom(gpu, (step) => frozen.ranking(step, histories).h);
    assert.equal((await ranked([long])).values, (await ranked([long.slice(-11)])).values);
    assert.not.equal((await ranked([long])).values, (await ranked([long.slice(-10)])).values);
    const step = gpu.step("too long");
    assert.throws(() => frozen.hiddenStates(step, [long]), /a history of 40 items; expected 1 to 12/);
    assert.throws(() => frozen.hiddenStates(step, [[]]), /a history of 0 items/);
    await step.submit();
  },
);

t.run();
