import { type Command, Option } from "commander";
import { openData, SHOP } from "../train/data-source.ts";
import { trainedRecommender } from "../train/recommender.ts";
import { adapterOption, openGpu } from "./adapter.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { addPretrainFlags, settingsFromFlags } from "./pretrain-flags.ts";
import { terminalProgress } from "./progress.ts";

interface PretrainFlags extends Record<string, unknown> {
  readonly data: string;
  readonly out?: string;
  readonly fresh?: boolean;
  readonly adapter?: string;
}

/** `laser pretrain`: the recommender that gives the collaborative embeddings; kept by the hash of the data. */
export function registerPretrain(program: Command): void {
  const command = program
    .command("pretrain")
    .description(
      "train the ID recommender (BERT4Rec or SASRec) that Laser reads; kept by the hash of the data",
    )
    .addOption(dataOption())
    .option("--out <dir>", "its folder (default: runs/recommenders/NAME-HASH-SHAPE)")
    .option("--fresh", "train anew even if it is there already")
    .addOption(adapterOption());
  addPretrainFlags(command)
    .addHelpText(
      "after",
      `
Keeps the epoch with the best validation NDCG@10. Ctrl-C saves after the update; the same command goes on from there.

Examples:
  laser pretrain --data runs/data/amazon-scientific
  laser pretrain --data runs/data/amazon-scientific --recommender sasrec
  laser pretrain --data runs/data/mine --width 32 --heads 1 --out runs/recommenders/small`,
    )
    .action(runPretrain);
}

/** --data, as pretrain and train have it. */
export function dataOption(): Option {
  return new Option(
    "--data <data>",
    "shop (the embedded example), a folder made by laser data, or raw files",
  ).default(SHOP);
}

async function runPretrain(flags: PretrainFlags): Promise<void> {
  const settings = settingsFromFlags(flags);
  const progress = terminalProgress();
  const { dataset } = await openData(flags.data, progress);
  using gpu = await openGpu(flags.adapter);
  using interrupt = listenForInterrupt("this update");
  const { out: folder, fresh } = flags;
  const { signal } = interrupt;
  const trained = await trainedRecommender(gpu, dataset, settings, { progress, folder, fresh, signal });
  trained.model.release(gpu);
  console.log(
    trained.cached
      ? `already trained with these settings for ${dataset.name}: ${trained.folder} (--fresh trains anew)`
      : `trained for ${dataset.name}: ${trained.folder}`,
  );
}
