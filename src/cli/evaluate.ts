import { type Command, Option } from "commander";
import { buildReport, reportJson } from "../eval/report.ts";
import { formatReport } from "../eval/report-text.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { UserError } from "../files/user-error.ts";
import { WEIGHT_STORAGES, type WeightStorage } from "../llm/weight-stream.ts";
import { openData } from "../train/data-source.ts";
import {
  type Evaluated,
  type EvaluateOptions,
  evaluateRecommenders,
  evaluateRuns,
} from "../train/evaluate-runs.ts";
import { latestRun } from "../train/run-folder.ts";
import { adapterOption, openGpu } from "./adapter.ts";
import { wholeNumber } from "./flags.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { terminalProgress } from "./progress.ts";
import { recommenderNamed } from "./recommender-flag.ts";

interface EvaluateFlags {
  readonly data?: string;
  readonly recommender?: readonly string[];
  readonly excludeSeen?: boolean;
  readonly json?: boolean;
  readonly out?: string;
  readonly users?: number;
  readonly weights?: readonly WeightStorage[];
  readonly adapter?: string;
}

/** `laser evaluate [RUN...]`: full ranking of the test split with intervals, cold items and reference rows. */
export function registerEvaluate(program: Command): void {
  program
    .command("evaluate")
    .description(
      "rank the test item among all items: Laser, its recommender, Markov-1 and popularity, with intervals",
    )
    .argument(
      "[run...]",
      "runs' folders; several are compared user by user (default: the newest under runs/)",
    )
    .option(
      "--data <data>",
      "other data to test the runs on, without training; with no run: popularity, Markov-1 and each --recommender on it",
    )
    .option(
      "--recommender <name...>",
      "with --data: bert4rec, sasrec (trained first if there is none for the data), or folders of laser pretrain (default: of the run's kind)",
    )
    .option("--exclude-seen", "leave the items of the history out of the candidates (never the target)")
    .addOption(
      new Option(
        "--users <n>",
        "users to evaluate, the same for every run; 0: all (default: as trained)",
      ).argParser(wholeNumber("--users", 0)),
    )
    .addOption(
      new Option(
        "--weights <list>",
        "store the backbone otherwise than in training, as in f16,int8,int4, to see what that costs (users are encoded with it; the item embeddings stay the run's)",
      ).argParser(storages),
    )
    .option("--json", "print one JSON object instead of the table (docs/evaluation.md)")
    .option("--out <file>", "also write the JSON object to a file")
    .addOption(adapterOption())
    .addHelpText(
      "after",
      `
Examples:
  laser evaluate
  laser evaluate runs/mine-llama2-1 --exclude-seen --out report.json
  laser evaluate --weights f16,int8,int4
  laser evaluate runs/mine-llama2-1 runs/mine-llama2-2
  laser evaluate runs/pets-llama2-1 --data runs/data/mine      zero-shot
  laser evaluate --data runs/data/mine --recommender bert4rec sasrec`,
    )
    .action(runEvaluate);
}

/** Storages of weights with commas between. */
function storages(text: string): WeightStorage[] {
  return text.split(",").map((name) => {
    const storage = WEIGHT_STORAGES.find((known) => known === name.trim());
    if (storage) return storage;
    throw new UserError(`--weights ${text}: expected some of ${WEIGHT_STORAGES.join(", ")}, commas between`);
  });
}

async function runEvaluate(folders: readonly string[], flags: EvaluateFlags): Promise<void> {
  if (folders.length && flags.recommender && flags.recommender.length > 1) {
    throw new UserError(
      `--recommender ${flags.recommender.join(" ")}: a run is tested on one; give one, or no run`,
    );
  }
  if (flags.data !== undefined && !folders.length && flags.weights) {
    throw new UserError("--weights: it goes with a run; recommenders have no backbone");
  }
  if (flags.data === undefined && flags.recommender) {
    throw new UserError("--recommender: it goes with --data; a run is evaluated with its own recommender");
  }
  const { users, weights, excludeSeen = false } = flags;
  const options = { users, weights, excludeSeen, progress: terminalProgress() };
  const { data } = flags;
  const evaluated =
    data !== undefined && !folders.length
      ? await ofData(data, flags, options)
      : await ofRuns(folders, flags, options);
  const report = buildReport(evaluated);
  if (flags.out) await writeFileAtomic(flags.out, reportJson(report));
  process.stdout.write(flags.json ? reportJson(report) : formatReport(report));
}

async function ofRuns(
  given: readonly string[],
  flags: EvaluateFlags,
  options: EvaluateOptions,
): Promise<Evaluated> {
  const folders = given.length ? given : [await latestRun()];
  if (!given.length) console.error(`run ${folders[0]}`);
  const [named] = await Promise.all((flags.recommender ?? []).map(recommenderNamed));
  const elsewhere =
    flags.data === undefined
      ? undefined
      : {
          dataset: (await openData(flags.data, options.progress)).dataset,
          recommender: named?.choice ?? null,
        };
  using gpu = await openGpu(flags.adapter);
  using interrupt = listenForInterrupt("this update");
  return await evaluateRuns(gpu, folders, { ...options, elsewhere, signal: interrupt.signal });
}

async function ofData(data: string, flags: EvaluateFlags, options: EvaluateOptions): Promise<Evaluated> {
  const named = await Promise.all((flags.recommender ?? []).map(recommenderNamed));
  const { dataset } = await openData(data, options.progress);
  using gpu = await openGpu(flags.adapter);
  using interrupt = listenForInterrupt("this update");
  const choices = named.map(({ choice }) => choice);
  return await evaluateRecommenders(gpu, dataset, choices, { ...options, signal: interrupt.signal });
}
