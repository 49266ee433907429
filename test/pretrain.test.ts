/** The training of the ID recommenders: each learns what follows what, and repeats and resumes to the same bits. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type Dataset, testCase, trainingCounts } from "../src/data/dataset.ts";
import { mean, recall } from "../src/eval/metrics.ts";
import { rankRecommender } from "../src/eval/rank-recommender.ts";
import { UserError } from "../src/files/user-error.ts";
import type { TrainableRecommender } from "../src/recommenders/recommender.ts";
import { pretrain } from "../src/train/pretrain.ts";
import { PRETRAIN_STATE } from "../src/train/pretrain-state.ts";
import { type Progress, SILENT } from "../src/train/progress.ts";
import { buildRecommender, loadTrained } from "../src/train/recommender-file.ts";
import { PRETRAIN, type PretrainSettings } from "../src/train/recommender-settings.ts";
import { chains } from "./chains.ts";
import { openTestGpu } from "./gpu.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("pretraining");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const small = <S extends PretrainSettings>(settings: S): S => ({
  ...settings,
  width: 16,
  maxLength: 10,
  batchSize: 32,
  // 80 users are 3 updates an epoch.
  validateEvery: 6,
  patience: 10,
});
const KINDS: Readonly<Record<string, PretrainSettings>> = {
  "BERT4Rec from cloze": small(PRETRAIN.bert4rec),
  "SASRec from cross-entropy": small(PRETRAIN.sasrec),
  "SASRec from the binary loss": small({ ...PRETRAIN.sasrec, loss: "binary" }),
};
const valuesOf = (model: TrainableRecommender) => gpu.read(model.parameters.values) as Promise<Float32Array>;
const home = temporaryFolder();
let folders = 0;
const folder = () => join(home, String(folders++));

/** Recall@10 of the test items. By chance: 10 of 101. */
async function hits(model: TrainableRecommender, data: Dataset): Promise<number> {
  const cases = data.sequences.map((sequence) => testCase(sequence)!);
  const { rank } = await rankRecommender(gpu, model, cases, { excludeSeen: false });
  return mean(rank, (r) => recall(r, 10));
}

for (const [name, settings] of Object.entries(KINDS)) {
  t(`${name} learns a fixed successor`, async () => {
    // Poisoning every tensor costs as much as the training itself; the other tests do it.
    gpu.poison = false;
    const data = chains(300, 101);
    const epochs = 24;
    const { model } = await pretrain(
      gpu,
      data,
      {
        ...settings,
        width: 32,
        dropout: 0.1,
        batchSize: 64,
        learningRate: 5e-3,
        epochs,
        validateEvery: 10_000,
      },
      folder(),
      SILENT,
    );
    const untrained = buildRecommender(gpu, data, settings);
    const [after, before] = [await hits(model, data), await hits(untrained, data)];
    assert.ok(after > 0.6 && before < 0.3, `Recall@10 ${before}, then ${after}`);
    gpu.poison = true;
    untrained.release(gpu);
    model.release(gpu);
  });

  t(`${name}: the same bits again, after interruptions, and from the cache; other seeds differ`, async () => {
    const data = chains(80, 30);
    const short = { ...settings, epochs: 4 };
    const whole = folder();
    const first = await pretrain(gpu, data, short, whole, SILENT);
    const values = await valuesOf(first.model);
    assert.ok(first.bestEpoch === 2 || first.bestEpoch === 4);
    assert.ok(values.every(Number.isFinite));

    // 80 users are 3 updates an epoch: inside the first epoch, at its end, inside the third, after a validation.
    const resumed = folder();
    for (const times of [2, 1, 7]) {
      const half = await pretrain(gpu, data, short, resumed, SILENT, stopAfter(times));
      assert.is(half.interrupted, true);
      assert.is(await loadTrained(gpu, data, short, resumed), null);
      assert.ok(existsSync(join(resumed, PRETRAIN_STATE)));
      half.model.release(gpu);
    }
    const begun: number[] = [];
    const rest = await pretrain(gpu, data, short, resumed, countingEpochs(begun));
    assert.is(rest.interrupted, false);
    assert.equal(await valuesOf(rest.model), values);
    assert.is(rest.bestEpoch, first.bestEpoch);
    assert.equal(begun, [3, 4], "of four epochs, two were left");
    assert.not.ok(existsSync(join(resumed, PRETRAIN_STATE)));

    const cached = await pretrain(gpu, data, short, whole, SILENT);
    assert.is(cached.bestEpoch, null);
    assert.equal(await valuesOf(cached.model), values);

    const other = await pretrain(gpu, data, { ...short, seed: 2 }, folder(), SILENT);
    assert.not.equal(await valuesOf(other.model), values);
    await refused(loadTrained(gpu, chains(81, 30), short, whole), /it is of other data/);
    for (const { model } of [first, rest, cached, other]) model.release(gpu);
  });
}

/** A signal that aborts once it has been asked this many times: it is asked before every update and after an epoch. */
function stopAfter(times: number): AbortSignal {
  let asked = 0;
  return {
    get aborted() {
      return ++asked > times;
    },
  } as AbortSignal;
}

/** Notes which epochs are begun. */
function countingEpochs(begun: number[]): Progress {
  return { ...SILENT, begin: (label) => begun.push(Number(/epoch (\d+)$/.exec(label)?.[1])) };
}

async function refused(work: Promise<unknown>, message: RegExp): Promise<void> {
  await work.then(
    () => assert.unreachable(),
    (error: unknown) => {
      assert.instance(error, UserError);
      assert.match((error as Error).message, message);
    },
  );
}

t("what another recommender left in a folder is refused", async () => {
  const data = chains(20, 30);
  const own = folder();
  const [bert4rec, sasrec] = [KINDS["BERT4Rec from cloze"], KINDS["SASRec from cross-entropy"]];
  const { model } = await pretrain(gpu, data, { ...bert4rec, epochs: 1 }, own, SILENT);
  await refused(loadTrained(gpu, data, sasrec, own), /it is bert4rec, not sasrec/);
  await refused(
    loadTrained(gpu, data, { ...bert4rec, width: 8 }, own),
    /items.weight has shape \[31,16\], expected \[31,8\]/,
  );
  const half = folder();
  const stopped = await pretrain(gpu, data, bert4rec, half, SILENT, stopAfter(1));
  await refused(pretrain(gpu, data, sasrec, half, SILENT), /pretrain.safetensors: not the state of this/);
  for (const each of [model, stopped.model]) each.release(gpu);
});

t("a dataset that nothing can be learned from is refused", async () => {
  const data = chains(5, 30);
  const pairs = { ...data, sequences: data.sequences.map((sequence) => sequence.slice(0, 3)) };
  const sasrec = KINDS["SASRec from cross-entropy"];
  await refused(
    pretrain(gpu, pairs, sasrec, folder(), SILENT),
    /chains: no user has 2 training items; SASRec/,
  );
});

t("pretraining marks the items it never showed", async () => {
  const data = chains(20, 30);
  const counts = trainingCounts(data);
  assert.is(counts[29], 0);
  const known = counts.findIndex((count) => count > 0);
  for (const settings of Object.values(KINDS)) {
    const { model } = await pretrain(gpu, data, { ...settings, epochs: 1 }, folder(), SILENT);
    const states = async (history: number[]) => {
      const step = gpu.step("states");
      const read = step.readFloats(model.hiddenStates(step, [history]));
      await step.submit();
      return read;
    };
    // The mask's or padding's id follows the items'.
    assert.equal(await states([known, 29]), await states([known, 30]), model.label);
    assert.not.equal(await states([known, known]), await states([known, 30]));
    model.release(gpu);
  }
});

t.run();
