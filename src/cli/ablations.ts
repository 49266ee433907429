import { join } from "node:path";
import { type Command, Option } from "commander";
import type { Dataset } from "../data/dataset.ts";
import { type AblationReport, buildAblationReport, type RankedRow } from "../eval/ablation-report.ts";
import { formatAblations } from "../eval/ablation-text.ts";
import { evaluationCases } from "../eval/cases.ts";
import type { Ranks } from "../eval/rank.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import { BACKBONE_NAMES, EMBEDDED } from "../llm/locate.ts";
import { ablationsNamed, type PlannedRow, planRows, ROW_GROUPS, type Sweep } from "../train/ablations.ts";
import { loadBackbone } from "../train/backbone.ts";
import { type Config, type ConfigName, PRESETS, presetConfig } from "../train/config.ts";
import { folderName, openData, RUNS, SHOP } from "../train/data-source.ts";
import { rankCounts, rankFrozen, rankLaser } from "../train/evaluate.ts";
import { runUsers } from "../train/examples.ts";
import { hasFinished, type Job, runOf } from "../train/job.ts";
import { openBackboneFor, originConfig } from "../train/origin.ts";
import type { Progress } from "../train/progress.ts";
import { recommenderFor, type TrainedRecommender, trainedRecommender } from "../train/recommender.ts";
import type { RecommenderName } from "../train/recommender-settings.ts";
import { readRun } from "../train/run-folder.ts";
import { storedRanks, storeRanks } from "../train/stored-ranks.ts";
import { Interrupted } from "../train/trainer.ts";
import { adapterOption, openGpu } from "./adapter.ts";
import { askedFor, type ConfigFlags, withAsked } from "./asked-config.ts";
import { DEMO } from "./demo.ts";
import { ablationLines, addConfigFlags, fieldNamed, wholeNumber } from "./flags.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { terminalProgress } from "./progress.ts";
import { type GivenRecommender, namedRecommender, RECOMMENDER_HELP } from "./recommender-flag.ts";
import { checkRunMemory } from "./run-memory.ts";

interface AblationFlags extends ConfigFlags {
  readonly data?: string;
  readonly backbone?: string;
  readonly from?: string;
  readonly seeds: readonly number[];
  readonly rows?: readonly string[];
  readonly sweep: readonly Sweep[];
  readonly split: "test" | "validation";
  readonly excludeSeen?: boolean;
  readonly out?: string;
  readonly json?: boolean;
  readonly adapter?: string;
}

/** Fields that belong to what all rows share, or to the seeds: no sweep changes them. */
const NOT_SWEPT: readonly ConfigName[] = ["seed", "users", "weights"];

/** `laser ablations`: every row of the paper's ablation tables, and sweeps of its figures, as one table over seeds. */
export function registerAblations(program: Command): void {
  const command = program
    .command("ablations")
    .description(
      "train every row of the paper's ablation tables (or of a sweep) with several seeds; one table",
    )
    .option(
      "--data <data>",
      `${SHOP} (the embedded example), a folder made by laser data, or raw files (default: ${SHOP})`,
    )
    .option(
      "--backbone <name>",
      `${BACKBONE_NAMES.join(", ")}, or a Hugging Face model directory (default: ${EMBEDDED.name})`,
    )
    .addOption(
      new Option(
        "--preset <name>",
        `where the hyper-parameters start: ${Object.keys(PRESETS).join(" or ")} (default: paper; on the embedded example those of laser demo)`,
      ),
    )
    .option("--config <file>", "JSON file of hyper-parameters; flags win over it, it wins over the preset")
    .option(
      "--from <run>",
      "begin every row with the encoders of a trained run, as for laser train (Figure 3)",
    )
    .option("--recommender <name>", RECOMMENDER_HELP)
    .option("--item-vectors <file>", "as for laser train")
    .option("--item-ids <file>", "as for laser train")
    .addOption(
      new Option("--seeds <list>", "seeds with commas between")
        .default([1, 2, 3], "1,2,3")
        .argParser(seedList),
    )
    .option(
      "--rows <list>",
      `names below, or groups: ${Object.keys(ROW_GROUPS).join(", ")} (default: table3,table5; with --sweep none)`,
      names,
    )
    .addOption(
      new Option(
        "--sweep <field=values>",
        "a row for each value of a field, as in experts=1,2,4,8 (repeatable)",
      )
        .default([], "none")
        .argParser(sweeps),
    )
    .addOption(
      new Option("--split <name>", "the item that is ranked").choices(["test", "validation"]).default("test"),
    )
    .option("--exclude-seen", "leave the items of the history out of the candidates (never the target)")
    .option(
      "--out <dir>",
      `folder of the runs and of ${REPORT} (default: ${join(RUNS, "ablations")}/DATA-BACKBONE)`,
    )
    .option("--json", "print one JSON object instead of the table (docs/evaluation.md)")
    .addOption(adapterOption())
    // Not that of laser train: a table has several.
    .addOption(new Option("--seed <n>").hideHelp());
  addConfigFlags(command)
    .addHelpText(
      "after",
      `
Every row and seed is a run in a folder of its own. Run again, the command goes on where it stopped: a finished run is not
trained again, an interrupted one resumes. The recommender is trained, and the language model loaded, once.

Rows (the full Laser is always there):
${ablationLines().join("\n")}

Examples:
  laser ablations                                                  Tables 3 to 5 on the embedded example
  laser ablations --data runs/data/mine --backbone llama2 --rows table3 --seeds 1
  laser ablations --sweep experts=1,2,4,8,16 --sweep suffixTokens=1,2,4 --split validation     Figure 4
  laser ablations --data runs/data/mine --from runs/pets-llama2-1 --sweep trainShare=0,0.05,0.25,1    Figure 3`,
    )
    .action(runAblations);
}

const REPORT = "ablations.json";

function names(text: string): string[] {
  return text.split(",").map((name) => name.trim());
}

function seedList(text: string): number[] {
  const seeds = names(text).map(wholeNumber("--seeds", 0));
  if (new Set(seeds).size !== seeds.length) throw new UserError(`--seeds ${text}: a seed is named twice`);
  return seeds;
}

/** Adds one --sweep to those before it. */
function sweeps(text: string, before: readonly Sweep[]): readonly Sweep[] {
  const source = `--sweep ${text}`;
  const [name, list] = text.split("=", 2);
  if (!list) throw new UserError(`${source}: expected FIELD=VALUE,VALUE, as in experts=1,2,4,8`);
  const { field, parse } = fieldNamed(name, source);
  if (NOT_SWEPT.includes(field)) {
    const instead = field === "seed" ? "use --seeds" : "run the command once for each value";
    throw new UserError(`${source}: ${field} is the same for every row of a table; ${instead}`);
  }
  return [...before, { field, values: names(list).map(parse) }];
}

async function runAblations(flags: AblationFlags): Promise<void> {
  if (flags.seed !== undefined)
    throw new UserError(`--seed ${flags.seed}: every row is trained with several; use --seeds`);
  const origin = flags.from === undefined ? null : await readRun(flags.from);
  const embedded =
    !origin && (flags.data ?? SHOP) === SHOP && (flags.backbone ?? EMBEDDED.name) === EMBEDDED.name;
  const own = origin ? originConfig(origin) : embedded ? DEMO.laser : presetConfig("paper");
  const start = flags.preset === undefined ? own : presetConfig(flags.preset);
  const { asked, given } = await askedFor(flags);
  const base = withAsked(start, asked);
  const groups = flags.rows ?? (flags.sweep.length ? [] : ["table3", "table5"]);
  const rows = planRows(base, ablationsNamed(groups, "--rows"), flags.sweep);

  const progress = terminalProgress();
  const files = await openBackboneFor(flags.backbone, origin);
  const data = await openData(flags.data ?? SHOP, progress);
  const { dataset } = data;
  const out = flags.out ?? join(RUNS, "ablations", `${folderName(dataset.name)}-${folderName(files.name)}`);
  using gpu = await openGpu(flags.adapter);
  using interrupt = listenForInterrupt("this update");
  const { signal } = interrupt;
  // The embedded example's recommender is trained as in the demo, in a folder of its own.
  const demo = embedded ? join(out, "recommender") : null;
  const recommenders = await recommendersOf(gpu, dataset, rows, given, demo, { progress, signal });
  for (const { config } of rows) {
    const { settings } = recommenders.get(config.recommender)!;
    await checkRunMemory(gpu, config, dataset, files, settings);
  }
  const backbone = await loadBackbone(gpu, files, base.weights, progress);
  const shared = { gpu, data, backbone, progress, signal, origin };

  const { split } = flags;
  const excludeSeen = flags.excludeSeen ?? false;
  const evaluation = evaluationCases(dataset, { users: runUsers(dataset, base.users), split });
  const references = rankCounts(dataset, evaluation, excludeSeen);
  for (const { model } of recommenders.values()) {
    const frozen = await rankFrozen(gpu, model, evaluation, excludeSeen, progress);
    if (frozen) references.push(frozen);
  }
  const ranked: RankedRow[] = rows.map(({ config, ...row }) => ({ ...row, folders: [], ranks: [] }));
  const total = rows.length * flags.seeds.length;
  let done = 0;
  for (const seed of flags.seeds) {
    for (const [r, row] of rows.entries()) {
      progress.line(`${++done}/${total} ${row.label}, seed ${seed}`);
      const folder = join(out, `${sameAs(row, rows).name}-seed${seed}`);
      const job = { ...shared, recommender: recommenders.get(row.config.recommender)! };
      const ranks = await ranksOf(job, folder, { ...row.config, seed }, { evaluation, excludeSeen });
      ranked[r].folders.push(folder);
      ranked[r].ranks.push(ranks);
    }
  }

  const { name, hash, items } = dataset;
  const report = buildAblationReport({
    data: { name, hash, items: items.length },
    backbone: files.name,
    evaluation,
    excludeSeen,
    seeds: flags.seeds,
    references,
    rows: ranked,
  });
  await writeFileAtomic(join(out, REPORT), json(report));
  process.stdout.write(flags.json ? json(report) : formatAblations(report));
}

/**
 * The recommenders of all rows, by name: the one that a flag gave, the demo's own (into the folder `demo`), or the one
 * kept for the data. What is not trained yet is trained now.
 */
async function recommendersOf(
  gpu: Gpu,
  dataset: Dataset,
  rows: readonly PlannedRow[],
  given: GivenRecommender | null,
  demo: string | null,
  options: { readonly progress: Progress; readonly signal: AbortSignal },
): Promise<Map<RecommenderName, TrainedRecommender>> {
  const found = new Map<RecommenderName, TrainedRecommender>();
  for (const name of new Set(rows.map(({ config }) => config.recommender))) {
    const choice = name === given?.name ? given.choice : namedRecommender(name);
    const own = demo !== null && !given && name === DEMO.pretrain.recommender;
    const trained = own
      ? await trainedRecommender(gpu, dataset, DEMO.pretrain, { ...options, folder: demo })
      : await recommenderFor(gpu, dataset, choice, options);
    found.set(name, trained);
  }
  return found;
}

/** The first row with the configuration of this one: a swept value may be the base's own, and is not trained twice. */
function sameAs(row: PlannedRow, rows: readonly PlannedRow[]): PlannedRow {
  const text = JSON.stringify(row.config);
  return rows.find(({ config }) => JSON.stringify(config) === text)!;
}

/** The ranks of one run: stored, or of the run as it is trained now. */
async function ranksOf(
  job: Job,
  folder: string,
  config: Config,
  of: Parameters<typeof storedRanks>[1],
): Promise<Ranks> {
  const stored = (await hasFinished(job, folder, config)) ? await storedRanks(folder, of) : null;
  if (stored) return stored;
  try {
    using run = await runOf(job, folder, config);
    const { session, embeddings } = run;
    const { ranks } = await rankLaser(session, embeddings, of.evaluation, of.excludeSeen, job.progress);
    await storeRanks(folder, of, ranks);
    return ranks;
  } catch (error) {
    job.progress.end();
    if (error instanceof Interrupted)
      throw new Interrupted(`${error.message} of ${folder}; the same command goes on from there`);
    throw error;
  }
}

function json(report: AblationReport): string {
  return `${JSON.stringify(report, null, 2)}\n`;
}
