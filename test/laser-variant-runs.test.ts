/**
 * Every ablation and variant as a run on disk: which phases it trains, that it is saved, resumed and loaded to the same
 * bits, and that the commands work on it.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { evaluationCases } from "../src/eval/cases.ts";
import { UserError } from "../src/files/user-error.ts";
import type { Gpu } from "../src/gpu/device.ts";
import type { Laser } from "../src/laser/laser.ts";
import type { Texts } from "../src/laser/text.ts";
import { ABLATIONS } from "../src/train/ablations.ts";
import { loadArtifact } from "../src/train/checkpoint.ts";
import type { Config } from "../src/train/config.ts";
import { encodeAll } from "../src/train/encode.ts";
import { rankLaser } from "../src/train/evaluate.ts";
import { type JobRun, runOf } from "../src/train/job.ts";
import { openRun } from "../src/train/open-run.ts";
import { SILENT } from "../src/train/progress.ts";
import { readRun } from "../src/train/run-folder.ts";
import { Interrupted } from "../src/train/trainer.ts";
import { openTestGpu } from "./gpu.ts";
import { assertUserError, laser, laserOk } from "./laser-process.ts";
import { temporaryFolder } from "./temporary.ts";
import { TINY_PRETRAIN, writeTinyData } from "./tiny-job.ts";
import { openTinyJob, tinyConfig } from "./tiny-parts.ts";

const t = suite("runs of the variants of Laser");
const gpu = await openTestGpu();
// Poisoning takes longer than these runs themselves; the kernels' own tests do it.
gpu.poison = false;
t.after(() => gpu.close());
const home = temporaryFolder();
const job = await openTinyJob(gpu, home);
const { dataset } = job.data;

const evaluation = evaluationCases(dataset);

interface Encoder {
  readonly gpu: Gpu;
  readonly laser: Laser;
  readonly texts: Texts;
}

/** Embeddings of every test history, and of every item, by the parameters that are loaded. */
async function encoded({ gpu, laser, texts }: Encoder) {
  const users = evaluation.cases.map(({ history }) => texts.user(history));
  const items = dataset.items.map((_, i) => texts.item(i));
  const encode = (inputs: typeof users) => encodeAll(gpu, laser, inputs, 8192, SILENT, "test");
  return { users: await encode(users), items: await encode(items) };
}

/** The phases of a run's epochs, in order, from its log; null updates are validations. */
function phases(folder: string): number[] {
  return readFileSync(join(folder, "metrics.jsonl"), "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as { phase: number; ndcg10?: number })
    .filter(({ ndcg10 }) => ndcg10 !== undefined)
    .map(({ phase }) => phase);
}

/** Beside the ablations: what the sweeps of the paper's figures change, and combinations. */
const MORE: readonly { name: string; fields: Partial<Config> }[] = [
  { name: "laser", fields: {} },
  { name: "sizes", fields: { experts: 5, activeExperts: 4, queryTokens: 3, suffixTokens: 3 } },
  { name: "authors", fields: { gates: "softmax", loadBalancing: "batch", optimizer: "adamw" } },
  { name: "all-at-once", fields: { moe: "ffn", pooling: "mean", projection: true, gates: "normalized" } },
  { name: "projection-alone", fields: { prefix: "none", pooling: "eos", projection: true } },
];

const folderOf = (name: string) => join(home, "runs", name);

for (const { name, fields } of [...MORE, ...ABLATIONS]) {
  t(`${name}: trained, interrupted, resumed, loaded, evaluated`, async () => {
    const config = tinyConfig(fields);
    const folder = folderOf(name);
    using run = await runOf(job, folder, config);
    const expected = [...(config.phase1Epochs ? [1] : []), ...(config.phase2Epochs ? [2] : [])];
    assert.equal(phases(folder), expected);

    // A run that is stopped after its first update ends as the same file.
    const stopped = `${folder}-stopped`;
    const signal = AbortSignal.abort();
    await runOf({ ...job, signal }, stopped, config).then(
      () => assert.unreachable("it was not interrupted"),
      (error) => assert.instance(error, Interrupted),
    );
    {
      using _resumed = await runOf(job, stopped, config);
    }
    const model = (of: string) => readFileSync(join(of, "model.safetensors"));
    assert.ok(model(stopped).equals(model(folder)), "a resumed run differs");

    // Opened from disk, its parts loaded anew, it encodes to the same bits.
    const here = await encoded(run.session);
    const opened = await openRun(gpu, folder, SILENT);
    const there = await encoded(opened.session);
    assert.equal(there, here);
    assert.equal(await gpu.read(opened.embeddings), await gpu.read(run.embeddings));
    const ranks = await rankLaser(opened.session, opened.embeddings, evaluation, false, SILENT);
    assert.equal(
      ranks.ranks,
      (await rankLaser(run.session, run.embeddings, evaluation, false, SILENT)).ranks,
    );

    // Its item encoder makes E again: an item added later lands in the same space.
    gpu.write(opened.session.laser.parameters.values, opened.artifact.item);
    assert.equal((await encoded(opened.session)).items, opened.artifact.items);
    // It is the user encoder's own of an earlier moment: they differ, since something was trained in between.
    assert.not.equal(opened.artifact.item, opened.artifact.user);
    gpu.release(opened.embeddings);
    opened.session.release();
    opened.session.backbone.decoder.release(gpu);
  });
}

const values = async ({ session }: JobRun) => gpu.read(session.laser.parameters.values);

t(
  "zero-shot: no epochs, or no share of the data, leave the initial parameters and encode the items",
  async () => {
    using none = await runOf(job, folderOf("no-epochs"), tinyConfig({ phase1Epochs: 0, phase2Epochs: 0 }));
    using share = await runOf(job, folderOf("no-share"), tinyConfig({ trainShare: 0 }));
    assert.equal(await values(share), await values(none));
    assert.equal(await gpu.read(share.embeddings), await gpu.read(none.embeddings));
    assert.equal((await encoded(none.session)).items, await gpu.read(none.embeddings));
    assert.equal(phases(folderOf("no-share")), []);
    assert.equal(phases(folderOf("no-epochs")), []);
    const fresh = await openRun(gpu, folderOf("no-epochs"), SILENT);
    assert.equal(fresh.artifact.user, fresh.artifact.item);
    using trained = await runOf(job, folderOf("laser"), tinyConfig());
    assert.not.equal(await values(trained), await values(none));
  },
);

t("a share of the training data trains on those users alone, and validates all", async () => {
  const updates = (folder: string) =>
    readFileSync(join(folder, "metrics.jsonl"), "utf8").split('"iic"').length - 1;
  const config = { batchSize: 4 };
  using _whole = await runOf(job, folderOf("whole"), tinyConfig(config));
  using _quarter = await runOf(job, folderOf("quarter"), tinyConfig({ ...config, trainShare: 0.25 }));
  const users = dataset.users.length;
  assert.is(updates(folderOf("whole")), 2 * Math.ceil(users / 4));
  assert.is(updates(folderOf("quarter")), 2 * Math.ceil(Math.round(users / 4) / 4));
});

t(
  "a run from another run's encoders: zero-shot they are its own, trained it goes on from the users'",
  async () => {
    using first = await runOf(job, folderOf("laser"), tinyConfig());
    const origin = await readRun(folderOf("laser"));
    const own = await loadArtifact(folderOf("laser"), first.session.laser.parameters);
    const from = { ...job, origin };
    const result = async (name: string, fields: Partial<Config>) => {
      using run = await runOf(from, folderOf(name), tinyConfig(fields));
      return loadArtifact(folderOf(name), run.session.laser.parameters);
    };
    // On the same data, with nothing trained, all of it is the origin's.
    assert.equal(await result("from-zero", { trainShare: 0 }), own);
    assert.equal(await result("from-zero-epochs", { phase1Epochs: 0, phase2Epochs: 0 }), own);
    // Phase 1 begins with the user encoder, and phase 2 alone with both: a rate of zero moves nothing.
    const one = await result("from-phase1", { phase2Epochs: 0, learningRate: 0 });
    assert.equal([one.user, one.item], [own.user, own.user]);
    assert.equal(await result("from-phase2", { phase1Epochs: 0, learningRate: 0 }), own);
    const trained = await result("from-trained", {});
    assert.not.equal(trained.user, own.user);
    // It resumes without its origin's folder, and says where it came from.
    const stopped = folderOf("from-stopped");
    await runOf({ ...from, signal: AbortSignal.abort() }, stopped, tinyConfig()).then(
      () => assert.unreachable("it was not interrupted"),
      (error) => assert.instance(error, Interrupted),
    );
    using resumed = await runOf(from, stopped, tinyConfig());
    assert.equal(await loadArtifact(stopped, resumed.session.laser.parameters), trained);
    assert.is((await readRun(stopped)).info.from, folderOf("laser"));
    // Where it came from is part of what it is; and what does not fit is refused.
    const refused = (run: Promise<unknown>, pattern: RegExp) =>
      run.then(
        () => assert.unreachable("it was accepted"),
        (error: Error) => {
          assert.instance(error, UserError);
          assert.match(error.message, pattern);
        },
      );
    await refused(
      runOf(job, folderOf("from-zero"), tinyConfig({ trainShare: 0 })),
      /a run with another origin/,
    );
    await refused(
      runOf(from, folderOf("misfit"), tinyConfig({ experts: 5 })),
      /tensor mformer\.experts has shape \[3,2,8\], expected \[5,2,8\]/,
    );
  },
);

t("train --from and evaluate --data: another run's encoders on other data, zero-shot", async () => {
  writeTinyData(join(home, "other"), 30, 16);
  await laserOk(["data", "other"], home);
  const data = ["--data", "runs/data/other"];
  await laserOk(["pretrain", ...data, "--out", "other-rec", ...TINY_PRETRAIN], home);
  const command = ["train", ...data, "--from", folderOf("all-at-once"), "--recommender", "other-rec"];
  await laserOk([...command, "--train-share", "0", "--run", "zero"], home);
  const config = JSON.parse(readFileSync(join(home, "zero/config.json"), "utf8"));
  assert.equal([config.moe, config.pooling, config.trainShare], ["ffn", "mean", 0]);
  const info = JSON.parse(readFileSync(join(home, "zero/run.json"), "utf8"));
  assert.is(info.from, folderOf("all-at-once"));
  assert.is(info.backbone.directory, job.backbone.directory);
  // The same as testing the origin on that data; and a run on its own data is tested as ever.
  const report = async (...args: string[]) =>
    JSON.parse(await laserOk(["evaluate", ...args, "--json"], home)) as { rows: object[]; data: object };
  const zero = await report("zero");
  const other = await report(folderOf("all-at-once"), ...data, "--recommender", "other-rec");
  assert.equal([other.rows, other.data], [zero.rows, zero.data]);
  const text = await laserOk(
    ["evaluate", folderOf("all-at-once"), "zero", ...data, "--recommender", "other-rec"],
    home,
  );
  assert.match(text, /all-at-once was trained on raw; its item encoder embedded these items\./);
  const itself = [folderOf("eos"), "--data", job.data.source, "--recommender", job.recommender.folder];
  assert.equal((await report(...itself)).rows, (await report(folderOf("eos"))).rows);
  assertUserError(
    await laser(["evaluate", "zero", ...data, "--recommender", "bert4rec", "sasrec"], home),
    "a run is tested on one",
  );
  assertUserError(
    await laser([...command, "--pooling", "suffix", "--run", "wrong"], home),
    "tensor suffix is missing",
  );
  assertUserError(await laser(["train", "--resume", "zero", "--from", "x"], home), "--from x");
});

t("the commands work on variants: evaluate, recommend, add-items", async () => {
  for (const name of ["eos", "all-at-once", "no-mformer"]) {
    const folder = folderOf(name);
    const report = JSON.parse(await laserOk(["evaluate", folder, "--json"], home));
    assert.is(report.rows.at(-1).name, "Laser");
    writeFileSync(join(home, "new.csv"), "item,title,brand,category\nfresh,Samovar 9,Brand 1,Samovars\n");
    assert.match(await laserOk(["add-items", folder, "new.csv"], home), /^added 1 items/);
    const [item] = dataset.items;
    const lists = JSON.parse(
      await laserOk(["recommend", folder, "--history", `${item.id},fresh`, "--top", "30", "--json"], home),
    );
    assert.ok(lists.recommended.some(({ id }: { id: string }) => id === "fresh"));
    assert.ok(lists.recommended.every(({ score }: { score: number }) => Number.isFinite(score)));
  }
});

t.run();
