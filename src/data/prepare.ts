// From raw interactions to a dataset: items without a title out, repeated reviews kept or dropped, k-core, time order.
import { UserError } from "../files/user-error.ts";
import { type Dataset, type Dropped, type Item, makeDataset } from "./dataset.ts";
import type { RawData } from "./raw.ts";

export interface PrepareOptions {
  /** Every user and item keeps at least this many interactions, found iteratively; 0 is off. Default 5. */
  core?: number;
  /** Whether a user's further interactions with an item count ("keep", the default), or only the first. */
  duplicates?: "keep" | "drop";
}

/** The rows (indexes into the raw columns) of each user, in time order; rows that were dropped are left out. */
type UserRows = Uint32Array[];

/**
 * Prepares a dataset. A user's interactions are in the order of time, ties in the order of the source's rows (days
 * are the resolution of many sources, so ties are common). Users and items are numbered in the order in which the
 * source's rows first name them. Throws a UserError when fewer than two users or items remain.
 */
export function prepare(raw: RawData, options: PrepareOptions = {}): Dataset {
  const core = options.core ?? 5;
  const duplicates = options.duplicates ?? "keep";
  if (!Number.isInteger(core) || core < 0) {
    throw new UserError(`core must be a whole number, 0 or more, and it is ${core}`);
  }
  const dropped: Dropped[] = [];
  let rows = rowsInTimeOrder(raw);
  rows = dropItemsWithoutTitle(raw, rows, dropped);
  if (duplicates === "drop") rows = dropRepeats(raw, rows, dropped);
  rows = keepCore(raw, rows, core, dropped);
  return assemble(raw, rows, { core, duplicates, dropped });
}

function rowsInTimeOrder(raw: RawData): UserRows {
  const lengths = new Uint32Array(raw.userIds.length);
  for (const user of raw.users) lengths[user]++;
  const rows = Array.from(lengths, (length) => new Uint32Array(length));
  const filled = new Uint32Array(raw.userIds.length);
  for (let row = 0; row < raw.users.length; row++) rows[raw.users[row]][filled[raw.users[row]]++] = row;
  for (const list of rows) list.sort((a, b) => raw.times[a] - raw.times[b] || a - b);
  return rows;
}

function dropItemsWithoutTitle(raw: RawData, rows: UserRows, dropped: Dropped[]): UserRows {
  const reasons = {
    unknown: { ...nothing("not in the item file"), found: new Set<number>() },
    missing: { ...nothing("no title"), found: new Set<number>() },
    broken: { ...nothing("broken title (page markup, or no letter or digit)"), found: new Set<number>() },
  };
  const kept = rows.map((list) =>
    list.filter((row) => {
      const item = raw.catalog[raw.items[row]];
      const problem = item ? item.problem : "unknown";
      if (!problem) return true;
      reasons[problem].found.add(raw.items[row]);
      reasons[problem].interactions++;
      return false;
    }),
  );
  for (const { found, ...entry } of Object.values(reasons)) {
    if (!found.size) continue;
    const examples = [...found].slice(0, 3).map((item) => raw.itemIds[item]);
    dropped.push({ ...entry, items: found.size, examples });
  }
  return kept;
}

function dropRepeats(raw: RawData, rows: UserRows, dropped: Dropped[]): UserRows {
  const entry = nothing("repeated interaction of one user and item");
  const kept = rows.map((list, user) => {
    const seen = new Set<number>();
    return list.filter((row) => {
      if (!seen.has(raw.items[row])) return Boolean(seen.add(raw.items[row]));
      entry.interactions++;
      if (entry.examples.length < 3)
        entry.examples.push(`${raw.userIds[user]} ${raw.itemIds[raw.items[row]]}`);
      return false;
    });
  });
  if (entry.interactions) dropped.push(entry);
  return kept;
}

/** Removes users, then items, with fewer than `core` interactions, until none is left; at least one is always needed. */
function keepCore(raw: RawData, rows: UserRows, core: number, dropped: Dropped[]): UserRows {
  const least = Math.max(1, core);
  const entry = nothing("");
  const itemCounts = new Uint32Array(raw.itemIds.length);
  for (const list of rows) for (const row of list) itemCounts[raw.items[row]]++;
  const itemGone = Uint8Array.from(itemCounts, (count) => (count === 0 ? 1 : 0));
  const kept = [...rows];
  const userGone = new Uint8Array(rows.length);
  let rounds = 0;
  for (let changed = true; changed; ) {
    changed = false;
    for (let user = 0; user < kept.length; user++) {
      if (userGone[user] || kept[user].length >= least) continue;
      for (const row of kept[user]) itemCounts[raw.items[row]]--;
      entry.interactions += kept[user].length;
      entry.users++;
      kept[user] = new Uint32Array(0);
      userGone[user] = 1;
      changed = true;
    }
    let itemsChanged = false;
    for (let item = 0; item < itemCounts.length; item++) {
      if (itemGone[item] || itemCounts[item] >= least) continue;
      itemGone[item] = 1;
      itemsChanged = true;
      entry.items++;
      if (entry.examples.length < 3) entry.examples.push(raw.itemIds[item]);
    }
    if (itemsChanged) {
      changed = true;
      for (let user = 0; user < kept.length; user++) {
        const before = kept[user].length;
        kept[user] = kept[user].filter((row) => !itemGone[raw.items[row]]);
        entry.interactions += before - kept[user].length;
      }
    }
    if (changed) rounds++;
  }
  entry.reason =
    core > 1 ? `fewer than ${core} interactions (${core}-core, ${rounds} rounds)` : "no interaction left";
  if (entry.users || entry.items) dropped.push(entry);
  return kept;
}

function assemble(
  raw: RawData,
  rows: UserRows,
  settings: { core: number; duplicates: "keep" | "drop"; dropped: Dropped[] },
): Dataset {
  const used = new Uint8Array(raw.itemIds.length);
  for (const list of rows) for (const row of list) used[raw.items[row]] = 1;
  const indexes = new Uint32Array(raw.itemIds.length);
  const items: Item[] = [];
  for (let item = 0; item < used.length; item++) {
    const text = raw.catalog[item];
    if (!used[item] || !text) continue;
    indexes[item] = items.length;
    const { title, brand, category } = text;
    items.push({ id: raw.itemIds[item], title, ...(brand && { brand }), ...(category && { category }) });
  }
  const users: string[] = [];
  const sequences: Uint32Array[] = [];
  for (let user = 0; user < rows.length; user++) {
    if (!rows[user].length) continue;
    users.push(raw.userIds[user]);
    sequences.push(rows[user].map((row) => indexes[raw.items[row]]));
  }
  if (users.length < 2 || items.length < 2) {
    const interactions = sequences.reduce((sum, sequence) => sum + sequence.length, 0);
    const why = settings.dropped
      .map((entry) => `${entry.reason}: ${entry.items} items, ${entry.users} users`)
      .join("; ");
    throw new UserError(
      `${raw.name}: ${users.length} user(s), ${items.length} item(s) and ${interactions} interactions remain of ${raw.users.length}, at least 2 users and 2 items are needed (dropped: ${why || "nothing"}); give more data or a smaller core (now ${settings.core})`,
    );
  }
  const { format, files, unusedItems } = raw;
  return makeDataset({
    name: raw.name,
    users,
    items,
    sequences,
    provenance: { format, ...settings, files, unusedItems },
  });
}

function nothing(reason: string): Dropped {
  return { reason, users: 0, items: 0, interactions: 0, examples: [] };
}
