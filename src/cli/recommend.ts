import { type Command, Option } from "commander";
import type { Item } from "../data/dataset.ts";
import { itemsWhere } from "../eval/item-filter.ts";
import { retrieve } from "../eval/top-items.ts";
import { UserError } from "../files/user-error.ts";
import { MOST_TOP_ITEMS } from "../ops/item-set-top.ts";
import { encodeAll } from "../train/encode.ts";
import { openRun } from "../train/open-run.ts";
import { SILENT } from "../train/progress.ts";
import { adapterOption, openGpu } from "./adapter.ts";
import { wholeNumber } from "./flags.ts";
import { nearestNames } from "./nearest.ts";
import { terminalProgress } from "./progress.ts";

interface RecommendFlags {
  readonly user?: string;
  readonly history?: string;
  readonly top: number;
  readonly where: string[];
  readonly excludeSeen?: boolean;
  readonly json?: boolean;
  readonly adapter?: string;
}

/** `laser recommend RUN`: titles and scores for a user of the data, or for any history of items. */
export function registerRecommend(program: Command): void {
  program
    .command("recommend")
    .description(
      "recommend items to a user of the data, or to anyone with a history of items; needs no training",
    )
    .argument("<run>", "the run's folder")
    .option("--user <id>", "a user of the data: all of the user's items are the history")
    .option("--history <ids>", "item ids, oldest first, with commas between")
    .addOption(new Option("--top <n>", "items to recommend").default(10).argParser(topCount))
    .option(
      "--where <field=value>",
      "only items of this category or brand (repeatable: values of one field are alternatives)",
      (value: string, all: string[]) => [...all, value],
      [] as string[],
    )
    .option("--exclude-seen", "leave the items of the history out")
    .option("--json", "print one JSON object instead of text")
    .addOption(adapterOption())
    .addHelpText(
      "after",
      `
Examples:
  laser recommend runs/shop-embedded-1 --user u12
  laser recommend runs/mine-llama2-1 --history B00004,B00017 --where category=Tools --exclude-seen --json`,
    )
    .action(runRecommend);
}

function topCount(text: string): number {
  const count = wholeNumber("--top", 1)(text);
  if (count > MOST_TOP_ITEMS) throw new UserError(`--top ${text}: expected at most ${MOST_TOP_ITEMS}`);
  return count;
}

async function runRecommend(folder: string, flags: RecommendFlags): Promise<void> {
  if ((flags.user === undefined) === (flags.history === undefined)) {
    throw new UserError("give either --user ID or --history a,b,c");
  }
  const progress = terminalProgress();
  using gpu = await openGpu(flags.adapter);
  const { session, embeddings } = await openRun(gpu, folder, progress);
  const { dataset, items, texts, laser, config } = session;
  const history =
    flags.user !== undefined ? historyOf(dataset, flags.user) : itemsNamed(items, flags.history!.split(","));
  const allowed = itemsWhere(items, flags.where);
  const text = texts.user(history);
  const h = await encodeAll(gpu, laser, [text], config.tokenBudget, SILENT, "encoding the history");
  const seen = flags.excludeSeen ? [[...new Set(history)]] : null;
  const [list] = await retrieve(gpu, h, embeddings, Math.min(flags.top, items.length), { seen, allowed });
  if (flags.json) {
    const shown = history.map((i) => items[i]);
    const recommended = list.map(({ item, score }) => ({ ...items[item], score }));
    console.log(JSON.stringify({ user: flags.user ?? null, history: shown, recommended }, null, 2));
    return;
  }
  const read = text.items.length;
  console.log(`history${read < history.length ? ` (the newest ${read} of ${history.length} items)` : ""}:`);
  for (const i of text.items) console.log(`  ${describeItem(items[i])}`);
  console.log("recommended:");
  for (const line of recommendedLines(items, list)) console.log(line);
}

/** A ranked list, one line an item: place, score, id, title and labels. */
export function recommendedLines(
  items: readonly Item[],
  list: readonly { readonly item: number; readonly score: number }[],
): string[] {
  return list.map(
    ({ item, score }, place) =>
      `${String(place + 1).padStart(4)}  ${score.toFixed(4).padStart(7)}  ${describeItem(items[item])}`,
  );
}

/** "id  title (brand, category)". */
export function describeItem({ id, title, brand, category }: Item): string {
  const labels = [brand, category].filter(Boolean).join(", ");
  return `${id}  ${title}${labels ? ` (${labels})` : ""}`;
}

function historyOf(
  dataset: { users: readonly string[]; sequences: readonly Uint32Array[] },
  user: string,
): number[] {
  const index = dataset.users.indexOf(user);
  if (index < 0) {
    const near = nearestNames(user, dataset.users).join(", ");
    throw new UserError(
      `--user ${user}: no such user; the nearest ids are ${near}; for anyone else give --history`,
    );
  }
  return [...dataset.sequences[index]];
}

function itemsNamed(items: readonly Item[], ids: readonly string[]): number[] {
  const indexes = new Map(items.map(({ id }, i) => [id, i]));
  return ids.map((text) => {
    const id = text.trim();
    const index = indexes.get(id);
    if (index !== undefined) return index;
    if (!id) throw new UserError("--history: an id is empty; give item ids with commas between, as in a,b,c");
    const near = nearestNames(id, indexes.keys()).join(", ");
    throw new UserError(
      `--history: no item ${id}; the nearest ids are ${near}; new items are added with laser add-items`,
    );
  });
}
