import { type Command, Option } from "commander";
import { evaluationCases } from "../eval/cases.ts";
import { buildReport, reportJson } from "../eval/report.ts";
import { formatReport } from "../eval/report-text.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { WEIGHT_STORAGES, type WeightStorage } from "../llm/weight-stream.ts";
import { rankLaser, rankReferences } from "../train/evaluate.ts";
import { runUsers } from "../train/examples.ts";
import { openRun } from "../train/open-run.ts";
import { latestRun } from "../train/run-folder.ts";
import { adapterOption, openGpu } from "./adapter.ts";
import { wholeNumber } from "./flags.ts";
import { terminalProgress } from "./progress.ts";

interface EvaluateFlags {
  readonly excludeSeen?: boolean;
  readonly json?: boolean;
  readonly out?: string;
  readonly users?: number;
  readonly weights?: WeightStorage;
  readonly adapter?: string;
}

/** `laser evaluate [RUN]`: full ranking of the test split with intervals, cold items and reference rows. */
export function registerEvaluate(program: Command): void {
  program
    .command("evaluate")
    .description(
      "rank the test item among all items: Laser, BERT4Rec, Markov-1 and popularity, with intervals",
    )
    .argument("[run]", "the run's folder (default: the newest under runs/)")
    .option("--exclude-seen", "leave the items of the history out of the candidates (never the target)")
    .addOption(
      new Option(
        "--users <n>",
        "users to evaluate, the same for every run; 0: all (default: as trained)",
      ).argParser(wholeNumber("--users", 0)),
    )
    .addOption(
      new Option(
        "--weights <type>",
        "store the backbone otherwise than in training, to see what that costs (users are encoded with it; the item embeddings stay the run's)",
      ).choices(WEIGHT_STORAGES),
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
  laser evaluate --weights int4`,
    )
    .action(runEvaluate);
}

async function runEvaluate(folder: string | undefined, flags: EvaluateFlags): Promise<void> {
  const progress = terminalProgress();
  const wanted = folder ?? (await latestRun());
  if (!folder) console.error(`run ${wanted}`);
  using gpu = await openGpu(flags.adapter);
  const { session, embeddings } = await openRun(gpu, wanted, progress, { weights: flags.weights });
  const { dataset, config } = session;
  const users = runUsers(dataset, flags.users ?? config.users);
  const evaluation = evaluationCases(dataset, { users });
  const excludeSeen = flags.excludeSeen ?? false;
  const references = await rankReferences(gpu, session, evaluation, excludeSeen, progress);
  // Items that were added later are nobody's target: the candidates are the dataset's.
  const known = embeddings.rows(0, dataset.items.length);
  const name = flags.weights ? `Laser (${flags.weights})` : "Laser";
  const laser = await rankLaser(session, known, evaluation, excludeSeen, progress, name);
  const methods = [...references, laser];
  const report = buildReport({ dataset, evaluation, methods, excludeSeen, subject: laser.name });
  if (flags.out) await writeFileAtomic(flags.out, reportJson(report));
  process.stdout.write(flags.json ? reportJson(report) : formatReport(report));
}
