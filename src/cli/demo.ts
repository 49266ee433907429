import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { type EvaluationCases, evaluationCases } from "../eval/cases.ts";
import { mean, recall } from "../eval/metrics.ts";
import { buildReport, reportJson } from "../eval/report.ts";
import { formatReport } from "../eval/report-text.ts";
import type { MethodRanks } from "../eval/summary.ts";
import { retrieve } from "../eval/top-items.ts";
import { fileError, writeFileAtomic } from "../files/atomic.ts";
import { lockFolder } from "../files/lock.ts";
import { loadBackbone, openBackbone } from "../train/backbone.ts";
import { type Config, checkConfig, defaultConfig } from "../train/config.ts";
import { openData, SHOP } from "../train/data-source.ts";
import { encodeAll } from "../train/encode.ts";
import { rankCounts, rankLaser, rankReferences } from "../train/evaluate.ts";
import { type Job, runOf } from "../train/job.ts";
import { SILENT } from "../train/progress.ts";
import { trainedRecommender } from "../train/recommender.ts";
import { PRETRAIN, type PretrainSettings } from "../train/recommender-settings.ts";
import type { Session } from "../train/session.ts";
import { adapterOption, openGpu } from "./adapter.ts";
import { duration, terminalProgress } from "./progress.ts";
import { describeItem, recommendedLines } from "./recommend.ts";

interface DemoSettings {
  readonly folder: string;
  readonly pretrain: PretrainSettings;
  readonly laser: Config;
}

/**
 * What the embedded job trains: small enough for minutes on two cores. Where it departs from the paper: a small
 * M-Former; three items of history, about what so small a language model can sum up; one random target a user and
 * epoch, so few updates at a high learning rate; and three times the paper's temperature, at which its embeddings start
 * out less overconfident. Three seeds agree that this beats BERT4Rec; temperature 0.1 at 3e-3 was better in validation with
 * one seed and fell apart with rounding.
 */
export const DEMO: DemoSettings = {
  folder: join("runs", "demo"),
  pretrain: {
    ...PRETRAIN.bert4rec,
    maxLength: 50,
    maskRate: 0.3,
    lastOnly: 0.5,
    batchSize: 32,
    epochs: 60,
    validateEvery: 160,
  },
  laser: {
    ...defaultConfig(),
    mformerWidth: 64,
    mformerBlocks: 2,
    mformerHeads: 4,
    experts: 4,
    activeExperts: 2,
    queryTokens: 4,
    dropout: 0,
    temperature: 0.15,
    batchSize: 16,
    learningRate: 2e-3,
    examples: "random",
    maxHistory: 3,
    validationUsers: 500,
    phase1Epochs: 2,
    phase2Epochs: 3,
  },
};

/** `laser demo`, which is `npm start`: the whole method on an embedded shop and backbone. */
export function registerDemo(program: Command): void {
  program
    .command("demo")
    .description("the whole method on an embedded shop and backbone, in minutes: train, evaluate, recommend")
    .addOption(adapterOption())
    .addHelpText(
      "after",
      `
Trains BERT4Rec, Laser in both phases and Laser without M-Former on a generated shop (docs/data.md), prints the
evaluation with 95 % intervals and one user's recommendations. Everything is in ${DEMO.folder}, replaced each time; the
figures are the same on every run with one adapter.

Example:
  npm start`,
    )
    .action(demo);
}

async function demo(flags: { readonly adapter?: string }): Promise<void> {
  const started = performance.now();
  checkConfig(DEMO.laser, "the demo");
  const progress = terminalProgress();
  const files = await openBackbone("embedded");
  using _lock = await emptyFolder(DEMO.folder);
  using gpu = await openGpu(flags.adapter);
  const data = await openData(SHOP, progress);
  const { users, items, interactions } = data.dataset.statistics;
  progress.line(`the shop: ${users} users, ${items} items, ${interactions} interactions`);

  // A first answer within seconds: what needs no training.
  const evaluation = evaluationCases(data.dataset);
  for (const { name, ranks } of rankCounts(data.dataset, evaluation, false)) {
    progress.line(`${name}: Recall@10 ${mean(ranks.rank, (rank) => recall(rank, 10)).toFixed(4)}`);
  }

  progress.line("1/4 BERT4Rec, the ID recommender underneath");
  const folder = join(DEMO.folder, "recommender");
  const recommender = await trainedRecommender(gpu, data.dataset, DEMO.pretrain, { progress, folder });
  const backbone = await loadBackbone(gpu, files, DEMO.laser.weights, progress);
  const job = { gpu, data, recommender, backbone, progress };

  progress.line("2/4 Laser");
  const laser = await trainOne(job, evaluation, "Laser", join(DEMO.folder, "laser"), DEMO.laser);
  progress.line("3/4 Laser without M-Former: free vectors as the prefix");
  const free = { ...DEMO.laser, prefix: "free" as const };
  const without = await trainOne(job, evaluation, "Laser w/o M-F.", join(DEMO.folder, "laser-free"), free);

  progress.line("4/4 evaluation");
  const session = { dataset: data.dataset, recommender: recommender.model };
  const references = await rankReferences(gpu, session, evaluation, false, progress);
  const methods = [...references, without.ranks, laser.ranks];
  const report = buildReport({
    dataset: data.dataset,
    evaluation,
    methods,
    excludeSeen: false,
    subject: "Laser",
  });
  await writeFileAtomic(join(DEMO.folder, "report.json"), reportJson(report));
  process.stdout.write(formatReport(report));
  console.log();
  for (const line of laser.example) console.log(line);
  console.log(`\nin all ${duration((performance.now() - started) / 1000)}; everything is in ${DEMO.folder}`);
}

/** Trains one Laser of the job, ranks the test cases and shows what it recommends to one user. */
async function trainOne(
  job: Job,
  evaluation: EvaluationCases,
  name: string,
  folder: string,
  config: Config,
): Promise<{ ranks: MethodRanks; example: string[] }> {
  using run = await runOf(job, folder, config);
  const ranks = await rankLaser(run.session, run.embeddings, evaluation, false, job.progress, name);
  return { ranks, example: await exampleLines(run.session, run.embeddings, evaluation) };
}

/** The first user's history, ten recommendations, and what the user really took next. */
async function exampleLines(
  session: Session,
  embeddings: Parameters<typeof rankLaser>[1],
  { users, cases }: EvaluationCases,
): Promise<string[]> {
  const { gpu, laser, texts, dataset, config } = session;
  const { items } = dataset;
  const [{ history, target }] = cases;
  const text = texts.user(history);
  const h = await encodeAll(gpu, laser, [text], config.tokenBudget, SILENT, "encoding");
  const [list] = await retrieve(gpu, h, embeddings, 10);
  return [
    `user ${dataset.users[users[0]]}, the newest ${text.items.length} of ${history.length} items:`,
    ...text.items.map((i) => `  ${describeItem(items[i])}`),
    "Laser recommends:",
    ...recommendedLines(items, list),
    `taken next: ${describeItem(items[target])}`,
  ];
}

/** Makes, locks and empties the demo's folder. */
async function emptyFolder(folder: string): Promise<Disposable> {
  try {
    await mkdir(folder, { recursive: true });
    const lock = lockFolder(folder);
    for (const name of await readdir(folder)) {
      if (name !== "lock.json") await rm(join(folder, name), { recursive: true, force: true });
    }
    return lock;
  } catch (error) {
    throw fileError("empty the folder", folder, error);
  }
}
