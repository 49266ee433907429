import { type Command, Option } from "commander";
import { Comparison, type FileReport, passes } from "../eval/compare/compare.ts";
import { findDumps } from "../eval/compare/find-dumps.ts";
import { reportLines, summarize, summaryLines } from "../eval/compare/report.ts";
import { UserError } from "../files/user-error.ts";
import { WEIGHT_STORAGES, type WeightStorage } from "../llm/weight-stream.ts";
import { adapterOption, openGpu } from "./adapter.ts";

interface CompareFlags {
  readonly adapter?: string;
  readonly weights: WeightStorage;
  readonly checkpoints?: string;
  readonly json?: boolean;
}

/** `laser compare DIR_OR_FILE...`: this project against reference dumps (docs/dumps.md). */
export function registerCompare(program: Command): void {
  program
    .command("compare")
    .description("run kernels and models on reference dumps (docs/dumps.md) and compare every output")
    .argument("<path...>", "dumps (.safetensors), or directories of them; checkpoint directories are skipped")
    .addOption(adapterOption())
    .addOption(
      new Option("--weights <type>", "storage of frozen weights").choices(WEIGHT_STORAGES).default("f32"),
    )
    .option("--checkpoints <dir>", "where to look for checkpoints that do not lie beside their dump")
    .option("--json", "print one JSON object instead of text")
    .action(compare);
}

async function compare(paths: string[], flags: CompareFlags): Promise<void> {
  const files = await findDumps(paths);
  using gpu = await openGpu(flags.adapter);
  const comparison = new Comparison(gpu, flags.weights, flags.checkpoints ?? null);
  const reports: FileReport[] = [];
  const errors: { file: string; error: string }[] = [];
  if (!flags.json) console.log(`adapter: ${gpu.adapterName}; frozen weights in ${flags.weights}`);
  try {
    for (const file of files) {
      try {
        const report = await comparison.file(file);
        reports.push(report);
        if (!flags.json) for (const line of reportLines(report)) console.log(line);
      } catch (error) {
        // A dump that cannot be compared does not keep the others from it; other errors are defects of this program.
        if (!(error instanceof UserError)) throw error;
        errors.push({ file, error: error.message });
        console.error(`error: ${error.message}`);
      }
    }
  } finally {
    await comparison.release();
  }
  const summary = summarize(reports, errors.length);
  if (flags.json) {
    const { adapterName: adapter } = gpu;
    console.log(
      JSON.stringify({ adapter, weights: flags.weights, summary, files: reports, errors }, null, 1),
    );
  } else for (const line of summaryLines(summary)) console.log(line);
  if (errors.length > 0 || !reports.every(passes)) process.exitCode = 1;
}
