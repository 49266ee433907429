import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  coldItems,
  type Dataset,
  testCase,
  trainingCounts,
  trainingSequence,
  userSubset,
  validationCase,
} from "../src/data/dataset.ts";
import { detectAndRead } from "../src/data/detect.ts";
import { type PrepareOptions, prepare } from "../src/data/prepare.ts";
import type { CatalogItem, RawData } from "../src/data/raw.ts";
import { generateShop } from "../src/data/shop.ts";
import { isPreparedFolder, loadDataset, saveDataset } from "../src/data/storage.ts";
import { UserError } from "../src/files/user-error.ts";
import { sharedPath } from "./shared.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("data: preparation");

/** Raw data from rows "user item time"; every item has a title unless `catalog` says otherwise. */
function rawOf(lines: string[], catalog: Record<string, CatalogItem | undefined> = {}): RawData {
  const fields = lines.map((line) => line.split(" "));
  const userIds = [...new Set(fields.map(([user]) => user))];
  const itemIds = [...new Set(fields.map(([, item]) => item))];
  return {
    name: "test",
    format: "csv",
    userIds,
    itemIds,
    users: Uint32Array.from(fields, ([user]) => userIds.indexOf(user)),
    items: Uint32Array.from(fields, ([, item]) => itemIds.indexOf(item)),
    times: Float64Array.from(fields, ([, , time]) => Number(time)),
    catalog: itemIds.map((id) => (id in catalog ? catalog[id] : { title: `Title ${id}` })),
    unusedItems: 0,
    files: [],
  };
}

/** Sequences as "user: item item". */
const show = ({ users, items, sequences }: Dataset): string[] =>
  users.map((user, u) => `${user}: ${Array.from(sequences[u], (item) => items[item].id).join(" ")}`);

function failure(raw: RawData, options?: PrepareOptions): string {
  try {
    prepare(raw, options);
  } catch (error) {
    assert.ok(error instanceof UserError, String(error));
    return error.message;
  }
  return "";
}

t("orders by time, ties by source row", () => {
  const dataset = prepare(rawOf(["u a 5", "v b 1", "u b 5", "u c 4", "v a 1", "u d 5"]), { core: 0 });
  assert.equal(show(dataset), ["u: c a b d", "v: b a"]);
});

t("items without a title are dropped and accounted for", () => {
  const raw = rawOf(["u a 1", "u b 2", "u c 3", "u d 4", "v a 1", "v e 2", "w c 1"], {
    b: { title: "", problem: "missing" },
    c: { title: "", problem: "broken" },
    d: undefined,
  });
  const dataset = prepare(raw, { core: 0 });
  assert.equal(show(dataset), ["u: a", "v: a e"]);
  assert.equal(
    dataset.provenance.dropped.map(({ reason, items, users, interactions }) => [
      reason,
      items,
      users,
      interactions,
    ]),
    [
      ["not in the item file", 1, 0, 1],
      ["no title", 1, 0, 1],
      ["broken title (page markup, or no letter or digit)", 1, 0, 2],
      ["no interaction left", 0, 1, 0],
    ],
  );
  assert.equal(dataset.provenance.dropped[2].examples, ["c"]);
});

t("duplicates: kept by default, or the first one only", () => {
  const raw = rawOf(["u a 3", "u b 1", "u a 2", "v a 1", "v b 2"]);
  const kept = prepare(raw, { core: 0 });
  assert.equal(show(kept), ["u: b a a", "v: a b"]);
  assert.is(kept.statistics.repeatShare, 1 / 3);
  assert.is(kept.statistics.testRepeatShare, 1, "only u has a test target");
  const dropped = prepare(raw, { core: 0, duplicates: "drop" });
  assert.equal(show(dropped), ["u: b a", "v: a b"]);
  assert.equal(dropped.provenance.dropped[0].interactions, 1);
  assert.equal(dropped.provenance.dropped[0].examples, ["u a"]);
  assert.is.not(kept.hash, dropped.hash);
});

t("the core is found iteratively, as a plain reference finds it", () => {
  // A chain in which each removal causes the next, beside a block that stays.
  const chain = ["p a 1", "p b 2", "q b 1", "q c 2", "r c 1"];
  const block = ["u x 1", "u y 2", "v x 1", "v y 2"];
  const dataset = prepare(rawOf([...chain, ...block]), { core: 2 });
  assert.equal(show(dataset), ["u: x y", "v: x y"]);
  const [entry] = dataset.provenance.dropped;
  assert.equal([entry.users, entry.items, entry.interactions], [3, 3, 5]);

  const { dataset: shop } = generateShop({ seed: "core", items: 150, users: 300 });
  const lines = shop.sequences.flatMap((sequence, u) =>
    Array.from(sequence, (item, k) => `u${u} i${item} ${k}`),
  );
  let rows = lines.map((line) => line.split(" "));
  for (let before = -1; before !== rows.length; ) {
    before = rows.length;
    for (const column of [0, 1]) {
      const counts = new Map<string, number>();
      for (const row of rows) counts.set(row[column], (counts.get(row[column]) ?? 0) + 1);
      rows = rows.filter((row) => counts.get(row[column])! >= 8);
    }
  }
  const prepared = prepare(rawOf(lines), { core: 8 });
  assert.ok(rows.length > 0 && rows.length < lines.length, "the example is not trivial");
  assert.is(prepared.statistics.interactions, rows.length);
  assert.is(prepared.users.length, new Set(rows.map(([user]) => user)).size);
  assert.is(prepared.items.length, new Set(rows.map(([, item]) => item)).size);
});

t("too little left is an error that says what remains", () => {
  assert.match(
    failure(rawOf(["u a 1", "u b 2", "u c 3"]), { core: 0 }),
    /1 user\(s\), 3 item\(s\) and 3 interactions remain/,
  );
  assert.match(failure(rawOf(["u a 1", "v a 2"]), { core: 0 }), /2 user\(s\), 1 item\(s\)/);
  assert.match(failure(rawOf(["u a 1", "v b 2"])), /0 user\(s\).*5-core/);
  assert.match(failure(rawOf(["u a 1", "v b 2"]), { core: -1 }), /core/);
});

t("statistics of Table 1", () => {
  const { statistics } = prepare(rawOf(["u a 1", "u b 2", "u c 3", "v a 1"]), { core: 0 });
  assert.is(statistics.averageLength, 2);
  assert.is(statistics.density, 4 / 6);
});

t("leave-one-out", () => {
  const five = Uint32Array.of(9, 8, 7, 6, 5);
  assert.equal([...trainingSequence(five)], [9, 8, 7]);
  assert.equal([[...validationCase(five)!.history], validationCase(five)!.target], [[9, 8, 7], 6]);
  assert.equal([[...testCase(five)!.history], testCase(five)!.target], [[9, 8, 7, 6], 5]);
  const two = five.subarray(0, 2);
  assert.equal([...trainingSequence(two)], [9, 8], "nothing to spare");
  assert.is(validationCase(two), null);
  assert.is(testCase(two), null);
});

t("cold items: the bottom 35 % by training interactions, ties to the lower index", () => {
  const counts = Uint32Array.of(5, 0, 2, 2, 9, 2, 1);
  assert.equal([...coldItems(counts)], [0, 1, 0, 0, 0, 0, 1]);
  assert.equal([...coldItems(counts, 0.5)], [0, 1, 1, 0, 0, 0, 1]);
  const dataset = prepare(rawOf(["u a 1", "u b 2", "u a 3", "u b 4", "v b 1", "v a 2", "v b 3"]), {
    core: 0,
  });
  assert.equal([...trainingCounts(dataset)], [1, 2]);
  assert.equal([...trainingCounts(dataset, [1])], [0, 1]);
});

t("user subsets are seeded and nested", () => {
  const { dataset } = generateShop({ users: 100, items: 100 });
  const small = userSubset(dataset, 10, 1);
  const large = new Set(userSubset(dataset, 30, 1));
  assert.is(small.length, 10);
  assert.is(large.size, 30);
  assert.ok(small.every((user) => large.has(user)));
  assert.ok(small.every((user, k) => k === 0 || user > small[k - 1]));
  assert.is.not(small.join(), userSubset(dataset, 10, 2).join());
  assert.is(userSubset(dataset, 0, 1).length, 100);
  assert.is(userSubset(dataset, 1000, 1).length, 100);
});

t("saved and loaded unchanged; damage is found", async () => {
  const folder = join(temporaryFolder(), "new", "folder");
  const raw = rawOf(["u a 1", "u b 2", "v b 1", "v a 2"], {
    a: { title: 'A "quoted" title', brand: "B", category: "C" },
    b: { title: "Ünïcode" },
  });
  const dataset = prepare(raw, { core: 0 });
  assert.not(await isPreparedFolder(folder));
  await saveDataset(folder, dataset);
  assert.ok(await isPreparedFolder(folder));
  assert.equal(await loadDataset(folder), dataset);
  assert.is(JSON.parse(readFileSync(join(folder, "statistics.json"), "utf8")).statistics.users, 2);

  const path = join(folder, "dataset.jsonl");
  const text = readFileSync(path, "utf8");
  const refuses = async (content: string, pattern: RegExp): Promise<void> => {
    writeFileSync(path, content);
    const error: unknown = await loadDataset(folder).catch((caught) => caught);
    assert.ok(error instanceof UserError, `${pattern}: ${error}`);
    assert.match(error.message, pattern);
    assert.match(error.message, /dataset\.jsonl/);
  };
  await refuses(text.replace("quoted", "changed"), /does not match its hash/);
  await refuses(text.split("\n").slice(0, -2).join("\n"), /does not match its hash/);
  await refuses(text.slice(0, -5), /line 5: not JSON/);
  await refuses(text.replace("[0,1]", "[0,2]"), /line 4: an item index outside 0\.\.1/);
  await refuses(text.replace('"version":1', '"version":9'), /line 1: not the header/);
  await refuses(`${text}null\n`, /line 6: neither/);
  await refuses("", /is empty/);
  const error: unknown = await loadDataset(join(folder, "nowhere")).catch((caught) => caught);
  assert.ok(error instanceof UserError && /laser data/.test(error.message));
  writeFileSync(path, text);
  const again: unknown = await detectAndRead(folder).catch((caught) => caught);
  assert.ok(again instanceof UserError && /already holds a prepared dataset/.test(again.message));
});

t("amazon-scientific: the published numbers", async () => {
  const path = sharedPath("data/amazon-scientific");
  if (!path) return;
  const { statistics, provenance, items } = prepare(await detectAndRead(path));
  assert.equal([statistics.users, statistics.items, statistics.interactions], [8317, 4344, 58492]);
  assert.equal(provenance.dropped, []);
  assert.is(items[5].category, "Cyanoacrylate Adhesives");
});

t("amazon-gift-cards-raw: as published, five-core cleaned further", async () => {
  const path = sharedPath("data/amazon-gift-cards-raw");
  if (!path) return;
  const raw = await detectAndRead(path);
  const all = prepare(raw, { core: 0 }).statistics;
  assert.equal([all.users, all.items, all.interactions], [458, 148, 2972]);
  const five = prepare(raw).statistics;
  assert.equal([five.users, five.items, five.interactions], [456, 147, 2960]);
  const once = prepare(raw, { duplicates: "drop", core: 0 });
  assert.is(once.statistics.interactions, 2972 - 7);
  assert.is(once.statistics.repeatShare, 0);
  assert.ok(once.items.some((item) => item.title === "App Store & iTunes Gift Cards - Design May Vary"));
});

t("ml-100k: RecBole with movie titles", async () => {
  const path = sharedPath("data/ml-100k");
  if (!path) return;
  const { statistics } = prepare(await detectAndRead(path));
  assert.equal([statistics.users, statistics.items, statistics.interactions], [943, 1349, 99287]);
});

t.run();
