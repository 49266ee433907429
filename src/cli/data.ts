import { type Command, Option } from "commander";
import type { Dataset } from "../data/dataset.ts";
import { detectAndRead } from "../data/detect.ts";
import { prepare } from "../data/prepare.ts";
import { isPreparedFolder, loadDataset, saveDataset } from "../data/storage.ts";
import { UserError } from "../files/user-error.ts";
import { keepDataset, reading } from "../train/data-source.ts";
import { wholeNumber } from "./flags.ts";
import { terminalProgress } from "./progress.ts";

interface DataFlags {
  readonly items?: string;
  readonly core?: number;
  readonly duplicates?: "keep" | "drop";
  readonly out?: string;
  readonly json?: boolean;
}

/** `laser data INPUT`: raw files to a prepared folder, with the paper's Table 1 and what was dropped. */
export function registerData(program: Command): void {
  program
    .command("data")
    .description("prepare interactions and item texts for training, and say what was dropped and why")
    .argument(
      "<input>",
      "a folder with one dataset, its interactions file, or a prepared folder (to describe it)",
    )
    .option(
      "--items <file>",
      "the item file, when it does not lie beside the interactions under its usual name",
    )
    .addOption(
      new Option(
        "--core <n>",
        "interactions that every user and item keeps, found iteratively; 0: off (default: 5)",
      ).argParser(wholeNumber("--core", 0)),
    )
    .addOption(
      new Option("--duplicates <what>", "repeated interactions of one user and item (default: keep)").choices(
        ["keep", "drop"],
      ),
    )
    .option("--out <dir>", "the prepared folder (default: runs/data/NAME)")
    .option("--json", "print one JSON object instead of text")
    .addHelpText(
      "after",
      `
Reads Amazon 2018 (X_5.json.gz with meta_X.json.gz), RecBole (NAME.inter with NAME.item) and CSV or JSON lines
(interactions.csv with items.csv: columns user, item, timestamp; item, title, brand, category).

Examples:
  laser data downloads/amazon-gift-cards
  laser data ratings.csv --items products.csv --core 3 --out runs/data/mine
  laser data runs/data/mine                    describe what was prepared`,
    )
    .action(data);
}

async function data(input: string, flags: DataFlags): Promise<void> {
  const progress = terminalProgress();
  let dataset: Dataset;
  let folder: string;
  if (!flags.items && (await isPreparedFolder(input))) {
    if (flags.core !== undefined || flags.duplicates || flags.out) {
      throw new UserError(`${input} is prepared already; to prepare differently, name the raw files`);
    }
    dataset = await loadDataset(input);
    folder = input;
  } else {
    const source = flags.items ? { interactions: input, items: flags.items } : input;
    const { core, duplicates } = flags;
    dataset = prepare(await detectAndRead(source, reading(progress)), { core, duplicates });
    if (flags.out) await saveDataset(flags.out, dataset);
    folder = flags.out ?? (await keepDataset(dataset));
  }
  if (flags.json) {
    const { name, hash, statistics, provenance } = dataset;
    console.log(JSON.stringify({ name, folder, hash, statistics, provenance }, null, 2));
  } else for (const line of dataLines(dataset, folder)) console.log(line);
}

function dataLines({ name, hash, statistics, provenance }: Dataset, folder: string): string[] {
  const { users, items, interactions, averageLength, density, repeatShare, testRepeatShare } = statistics;
  const { format, core, duplicates, dropped, files, unusedItems } = provenance;
  const n = (value: number) => value.toLocaleString("en-US");
  const percent = (share: number) => `${(100 * share).toFixed(share < 0.001 ? 4 : 2)} %`;
  const preparation = core > 1 ? `${core}-core` : "no core";
  return [
    `${name} (${format}, ${preparation}, duplicates ${duplicates === "keep" ? "kept" : "dropped"})`,
    `  users                   ${n(users)}`,
    `  items                   ${n(items)}`,
    `  interactions            ${n(interactions)}`,
    `  average length          ${averageLength.toFixed(2)}`,
    `  density                 ${percent(density)}`,
    `  next item is the same   ${percent(repeatShare)} of all, ${percent(testRepeatShare)} of the test targets`,
    `  hash                    ${hash}`,
    ...dropped.map((entry) => {
      const parts = (["users", "items", "interactions"] as const).filter((part) => entry[part]);
      const counts = parts
        .map((part) => `${n(entry[part])} ${entry[part] === 1 ? part.slice(0, -1) : part}`)
        .join(", ");
      return `  dropped: ${entry.reason}: ${counts}${entry.examples.length ? ` (${entry.examples.join(", ")})` : ""}`;
    }),
    ...(dropped.length ? [] : ["  dropped: nothing"]),
    ...(unusedItems
      ? [`  ${n(unusedItems)} records of the item file are about items that nobody interacted with`]
      : []),
    ...files.map(
      ({ path, records, malformed, firstMalformed }) =>
        `  ${path}: ${n(records)} records, ${n(malformed)} malformed${firstMalformed ? ` (first: ${firstMalformed})` : ""}`,
    ),
    `in ${folder}`,
  ];
}
