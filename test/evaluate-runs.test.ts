/** What `laser evaluate` ranks: one run, runs compared user by user, recommenders alone. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { detectAndRead } from "../src/data/detect.ts";
import { prepare } from "../src/data/prepare.ts";
import { saveDataset } from "../src/data/storage.ts";
import { buildReport, type Report } from "../src/eval/report.ts";
import { formatReport } from "../src/eval/report-text.ts";
import { UserError } from "../src/files/user-error.ts";
import { type EvaluateOptions, evaluateRecommenders, evaluateRuns } from "../src/train/evaluate-runs.ts";
import { type Job, runOf } from "../src/train/job.ts";
import { SILENT } from "../src/train/progress.ts";
import { type RecommenderChoice, recommenderFor, trainedRecommender } from "../src/train/recommender.ts";
import { saveVectors } from "../src/train/recommender-file.ts";
import { PRETRAIN } from "../src/train/recommender-settings.ts";
import { openTestGpu } from "./gpu.ts";
import { temporaryFolder } from "./temporary.ts";
import { writeTinyData } from "./tiny-job.ts";
import { openTinyJob, tinyConfig } from "./tiny-parts.ts";

const t = suite("evaluation of runs");
const gpu = await openTestGpu();
t.after(() => gpu.close());
const home = temporaryFolder();
const path = (name: string) => join(home, name);
const job = await openTinyJob(gpu, home);
const { dataset } = job.data;

const small = { width: 8, heads: 2, blocks: 1, epochs: 2 };
const options = { progress: SILENT, folder: path("sasrec") };
const sasrec = await trainedRecommender(gpu, dataset, { ...PRETRAIN.sasrec, ...small }, options);
const again = await trainedRecommender(
  gpu,
  dataset,
  { ...PRETRAIN.sasrec, ...small, seed: 2 },
  { progress: SILENT, folder: path("sasrec-2") },
);

async function run(name: string, values: Parameters<typeof tinyConfig>[0], parts: Partial<Job> = {}) {
  const config = tinyConfig({ phase2Epochs: 0, ...values });
  (await runOf({ ...job, ...parts }, path(name), config))[Symbol.dispose]();
  return path(name);
}
const onBert = await run("on-bert", {});
const seed2 = await run("seed-2", { seed: 2 });
const onSasrec = await run("on-sasrec", { recommender: "sasrec" }, { recommender: sasrec });
const onAgain = await run("on-sasrec-2", { recommender: "sasrec" }, { recommender: again });

const evaluated = async (folders: string[], more: Partial<EvaluateOptions> = {}): Promise<Report> =>
  buildReport(await evaluateRuns(gpu, folders, { excludeSeen: false, progress: SILENT, ...more }));
const rowNames = (report: Report) => report.rows.map(({ name }) => name);
const pairs = (report: Report) => report.differences.map(({ of, from }) => `${of} - ${from}`);

async function refused(work: Promise<unknown>, ...parts: string[]): Promise<void> {
  await work.then(
    () => assert.unreachable(`expected: ${parts.join(", ")}`),
    (error: unknown) => {
      assert.instance(error, UserError);
      for (const part of parts) assert.ok((error as Error).message.includes(part), (error as Error).message);
    },
  );
}

t("one run: Laser against every reference, under whichever recommender", async () => {
  const report = await evaluated([onSasrec]);
  assert.equal(rowNames(report), ["popularity", "Markov-1", "SASRec", "Laser"]);
  assert.equal(pairs(report), ["Laser - popularity", "Laser - Markov-1", "Laser - SASRec"]);
  assert.is((await evaluated([onSasrec], { users: 5 })).users.all, 5);
});

t("several runs: each row is what the run has by itself, and differences are of these users", async () => {
  const runs = [onBert, seed2, onSasrec, onAgain];
  const before = gpu.buffers.bytes;
  const report = await evaluated(runs);
  assert.equal(rowNames(report), [
    ...["popularity", "Markov-1", "BERT4Rec", "SASRec", "SASRec (on-sasrec-2)"],
    ...["on-bert", "seed-2", "on-sasrec", "on-sasrec-2"],
  ]);
  for (const folder of runs) {
    const [own] = (await evaluated([folder])).rows.slice(-1);
    const row = report.rows.find(({ name }) => folder.endsWith(`/${name}`))!;
    assert.equal({ ...row, name: "Laser" }, own);
  }
  assert.equal(pairs(report).slice(0, 3), ["seed-2 - on-bert", "on-sasrec - on-bert", "on-sasrec - seed-2"]);
  assert.is(report.differences.length, 6);
  const mrr = (name: string) => report.rows.find((row) => row.name === name)!.all.metrics.mrr.value!;
  const { value } = report.differences[0].all.mrr;
  assert.ok(value !== 0 && Math.abs(value! - (mrr("seed-2") - mrr("on-bert"))) < 1e-12);
  // The runs are let go one after another.
  await evaluated(runs);
  assert.is(gpu.buffers.bytes - before, 0);
});

t("the report says each difference under its own heading", async () => {
  const text = formatReport(await evaluated([onBert, seed2, onSasrec]));
  assert.match(text, /\nseed-2 minus on-bert, paired by user\n/);
  assert.match(text, /\non-sasrec minus the others, paired by user\n/);
  assert.match(text, /\non-bert +[+-]\d\.\d{4} \[/);
});

t("runs that cannot be compared are refused by name", async () => {
  const other = prepare(await detectAndRead(writeTinyData(path("more-raw"), 30), () => {}));
  await saveDataset(path("more"), other);
  const settings = { ...PRETRAIN.bert4rec, ...small };
  const recommender = await trainedRecommender(gpu, other, settings, {
    progress: SILENT,
    folder: path("rec-more"),
  });
  const data = { dataset: other, source: path("more") };
  const onMore = await run("on-more", {}, { data, recommender });
  const about = (name: string, { hash }: { hash: string }) => `(${name}, hash ${hash.slice(0, 12)})`;
  await refused(
    evaluated([onBert, onMore]),
    `${onMore} was trained on other data ${about(other.name, other)} than ${onBert} ${about(dataset.name, dataset)}`,
  );
  const nine = await run("nine", { users: 9 });
  await refused(
    evaluated([onBert, nine]),
    `${nine} was trained on 9 users, ${onBert} on all users`,
    "--users N",
  );
  assert.is((await evaluated([onBert, nine], { users: 0 })).users.all, dataset.users.length);
  await refused(evaluated([onBert, onBert]), `the run ${onBert} is named twice`);
});

t("item vectors have no row, and a sentence says so", async () => {
  const rows = Float32Array.from({ length: (dataset.items.length + 1) * 4 }, (_, i) => Math.cos(i));
  const settings = {
    recommender: "vectors",
    width: 4,
    matched: dataset.items.length,
    sha256: "test",
  } as const;
  mkdirSync(path("vectors"));
  await saveVectors(rows, dataset, settings, path("vectors"));
  writeFileSync(path("vectors/settings.json"), JSON.stringify(settings));
  const choice = { folder: path("vectors") };
  const recommender = await recommenderFor(gpu, dataset, choice, { progress: SILENT });
  const onVectors = await run("on-vectors", { recommender: "vectors" }, { recommender });
  const report = await evaluated([onVectors]);
  assert.equal(rowNames(report), ["popularity", "Markov-1", "Laser"]);
  assert.match(formatReport(report), /\n\nThe item vectors have no scores of their own: no row/);
  assert.match((await evaluated([onBert, onVectors])).notes[0], /The item vectors of on-vectors have no/);
});

t("recommenders alone, against counting and each other", async () => {
  const alone = async (choices: RecommenderChoice[], users?: number) =>
    buildReport(
      await evaluateRecommenders(gpu, dataset, choices, { users, excludeSeen: false, progress: SILENT }),
    );
  const [bert, first, second] = ["recommender", "sasrec", "sasrec-2"].map((name) => ({ folder: path(name) }));
  const report = await alone([bert, first, second]);
  assert.equal(rowNames(report), ["popularity", "Markov-1", "BERT4Rec", "SASRec", "SASRec (sasrec-2)"]);
  assert.equal(pairs(report).slice(0, 5), [
    "BERT4Rec - popularity",
    "BERT4Rec - Markov-1",
    "SASRec - popularity",
    "SASRec - Markov-1",
    "SASRec - BERT4Rec",
  ]);
  // The same ranks as under a run.
  const under = (await evaluated([onSasrec])).rows;
  assert.equal(
    report.rows.filter(({ name }) => ["Markov-1", "SASRec"].includes(name)),
    under.slice(1, 3),
  );
  assert.equal(rowNames(await alone([], 7)), ["popularity", "Markov-1"]);
});

t.run();
