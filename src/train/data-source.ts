import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Dataset } from "../data/dataset.ts";
import { detectAndRead } from "../data/detect.ts";
import { prepare } from "../data/prepare.ts";
import { generateShop } from "../data/shop.ts";
import { isPreparedFolder, loadDataset, saveDataset } from "../data/storage.ts";
import { UserError } from "../files/user-error.ts";
import type { Progress } from "./progress.ts";

/** Name of the embedded dataset, which is generated. */
export const SHOP = "shop";

/** Where everything that this program writes goes, unless a flag says otherwise. */
export const RUNS = "runs";

/** A dataset and where it can be found again: `shop`, or the absolute path of its prepared folder. */
export interface OpenedData {
  readonly dataset: Dataset;
  readonly source: string;
}

/**
 * Opens what --data names: `shop` (the embedded generator), a prepared folder, or raw files in any format that `laser
 * data` reads, which are then prepared with its defaults into runs/data. Throws UserError.
 */
export async function openData(data: string, progress: Progress): Promise<OpenedData> {
  if (data === SHOP) return { dataset: generateShop().dataset, source: SHOP };
  if (await isPreparedFolder(data)) return { dataset: await loadDataset(data), source: resolve(data) };
  if (!existsSync(data)) {
    throw new UserError(
      `${data}: no such file or folder; expected ${SHOP} (the embedded example), a folder made by laser data, or raw interactions`,
    );
  }
  const dataset = prepare(await detectAndRead(data, reading(progress)));
  const source = await keepDataset(dataset);
  progress.line(`prepared ${data} with the defaults of laser data into ${source}`);
  return { dataset, source: resolve(source) };
}

/** Reports the reading of raw files: one piece of work a file. */
export function reading(progress: Progress): (path: string, bytes: number, total: number) => void {
  let current = "";
  return (path, bytes, total) => {
    if (path !== current) {
      current = path;
      progress.begin(`reading ${path}`, Math.ceil(total / 2 ** 20), "MiB");
    }
    progress.update(Math.ceil(bytes / 2 ** 20));
    if (bytes >= total) progress.end();
  };
}

/**
 * Stores a dataset as runs/data/NAME and returns the folder. Other data of that name stays, since runs may refer to
 * it: the folder's name then ends with the hash.
 */
export async function keepDataset(dataset: Dataset): Promise<string> {
  const name = folderName(dataset.name);
  for (const folder of [
    join(RUNS, "data", name),
    join(RUNS, "data", `${name}-${dataset.hash.slice(0, 8)}`),
  ]) {
    if (await isPreparedFolder(folder)) {
      const hash = await loadDataset(folder).then(
        (stored) => stored.hash,
        () => null,
      );
      if (hash === dataset.hash) return folder;
      // Damaged content is nobody's: replace it. Other content stays.
      if (hash !== null) continue;
    }
    await saveDataset(folder, dataset);
    return folder;
  }
  throw new Error("two datasets of one name and one hash differ");
}

/** A name as part of a path: letters, digits, dots, dashes and underscores. */
export function folderName(name: string): string {
  return name.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[.-]+|-+$/g, "") || "data";
}
