import type { Command } from "commander";
import { readItemTable } from "../data/own-tables.ts";
import { UserError } from "../files/user-error.ts";
import { encodeAll } from "../train/encode.ts";
import { openRun, writeAdded } from "../train/open-run.ts";
import { heldRunFolder, readRun } from "../train/run-folder.ts";
import { runTexts } from "../train/session.ts";
import { adapterOption, openGpu } from "./adapter.ts";
import { terminalProgress } from "./progress.ts";

/** `laser add-items RUN FILE`: new items join a trained run without training. */
export function registerAddItems(program: Command): void {
  program
    .command("add-items")
    .description(
      "embed new items with a run's item encoder, so that they are recommended and may be in a history",
    )
    .argument("<run>", "the run's folder")
    .argument("<file>", "CSV or JSON lines: item, title and, if there are any, brand and category")
    .addOption(adapterOption())
    .addHelpText(
      "after",
      `
All items of the file are added, or none. Ids that the run has already are refused.

Example:
  laser add-items runs/mine-llama2-1 new-products.csv`,
    )
    .action(addItems);
}

async function addItems(folder: string, file: string, flags: { readonly adapter?: string }): Promise<void> {
  await readRun(folder);
  const fresh = await readItemTable(file);
  const progress = terminalProgress();
  await using _held = await heldRunFolder(folder);
  using gpu = await openGpu(flags.adapter);
  const { run, session, artifact, added } = await openRun(gpu, folder, progress);
  const { items, backbone, recommender, config, laser } = session;
  const known = new Set(items.map(({ id }) => id));
  for (const { id } of fresh) {
    if (known.has(id))
      throw new UserError(`${file}: item ${id} is there already; remove its line and add the others`);
    known.add(id);
  }
  // The item encoder, which made E: what it embeds lies in the same space.
  gpu.write(laser.parameters.values, artifact.item);
  const all = [...items, ...fresh];
  const texts = runTexts(all, backbone.tokenizer, backbone.decoder.config, recommender.maxLength, config);
  const inputs = fresh.map((_, i) => texts.item(items.length + i));
  const rows = await encodeAll(gpu, laser, inputs, config.tokenBudget, progress, "encoding items");
  const embeddings = new Float32Array(added.embeddings.length + rows.length);
  embeddings.set(added.embeddings);
  embeddings.set(rows, added.embeddings.length);
  await writeAdded(folder, { items: [...added.items, ...fresh], embeddings });
  console.log(`added ${fresh.length} items to ${run.folder}; it has ${all.length} now`);
}
