import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { cleanTitle, lastCategory } from "../src/data/clean.ts";
import { detect, detectAndRead, type FilePair } from "../src/data/detect.ts";
import type { RawData } from "../src/data/raw.ts";
import { UserError } from "../src/files/user-error.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("data: readers");
const root = temporaryFolder();
let folders = 0;

/** Writes files into a new folder and returns it. */
function folder(files: Record<string, string | Uint8Array>): string {
  const path = join(root, String(folders++));
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(path, name)), { recursive: true });
    writeFileSync(join(path, name), content);
  }
  return path;
}

const jsonLines = (records: unknown[]): string =>
  records.map((record) => `${JSON.stringify(record)}\n`).join("");

async function fails(input: string | FilePair, ...patterns: RegExp[]): Promise<void> {
  let error: unknown;
  try {
    await detectAndRead(input);
  } catch (caught) {
    error = caught;
  }
  assert.ok(error instanceof UserError, `expected a UserError, got ${error}`);
  for (const pattern of patterns) assert.match(error.message, pattern);
  assert.ok(!error.message.includes("\n"), "one line");
}

/** Interactions as "user item time". */
const rows = (raw: RawData): string[] =>
  Array.from(
    raw.users,
    (user, row) => `${raw.userIds[user]} ${raw.itemIds[raw.items[row]]} ${raw.times[row]}`,
  );

const REVIEWS = [
  { reviewerID: "U1", asin: "A", overall: 5, unixReviewTime: 30 },
  { reviewerID: "U2", asin: "B", reviewTime: "06 17, 2018" },
  { reviewerID: "U1", asin: "C", unixReviewTime: 10 },
  { reviewerID: "U1", asin: "D", unixReviewTime: 20 },
];
const META = [
  { asin: "A", title: "", brand: "None" },
  { asin: "Z", title: "Nobody's" },
  {
    asin: "A",
    title: " Salt &amp; Pepper\n Mill&trade; ",
    brand: "B&amp;B",
    category: ["Home", "Kitchen &amp; Dining"],
  },
  { asin: "A", title: "Later duplicate" },
  { asin: "B", title: '<span id="productTitle">B</span>' },
  { asin: "C" },
];

t("Amazon 2018: gz pairs, entities, broken titles, the first complete duplicate", async () => {
  const path = folder({
    "Toys_5.json.gz": gzipSync(jsonLines(REVIEWS)),
    "meta_Toys.json.gz": gzipSync(jsonLines(META)),
  });
  const raw = await detectAndRead(path);
  assert.is(raw.name, "Toys");
  assert.is(raw.format, "amazon-2018");
  assert.equal(rows(raw), ["U1 A 30", `U2 B ${Date.UTC(2018, 5, 17) / 1000}`, "U1 C 10", "U1 D 20"]);
  assert.equal(raw.catalog[0], { title: "Salt & Pepper Mill™", brand: "B&B", category: "Kitchen & Dining" });
  assert.equal(raw.catalog[1], { title: "", problem: "broken" });
  assert.equal(raw.catalog[2], { title: "", problem: "missing" });
  assert.is(raw.catalog[3], undefined);
  assert.is(raw.unusedItems, 1);
  assert.equal(
    raw.files.map((file) => [file.records, file.malformed]),
    [
      [4, 0],
      [6, 0],
    ],
  );
  // The same by its reviews file, uncompressed, and by two named files.
  const plain = folder({ "Toys_5.json": jsonLines(REVIEWS), "meta_Toys.json": jsonLines(META) });
  assert.equal(rows(await detectAndRead(join(plain, "Toys_5.json"))), rows(raw));
  const pair = { interactions: join(plain, "Toys_5.json"), items: join(path, "meta_Toys.json.gz") };
  assert.equal((await detectAndRead(pair)).catalog, raw.catalog);
});

t("other editions of the Amazon data are refused by name", async () => {
  const reviews = jsonLines(REVIEWS);
  const literal = "{'asin': 'A', 'title': \"It's\"}\n";
  await fails(folder({ "X_5.json": reviews, "meta_X.json": literal }), /meta_X\.json/, /2014/);
  const new2023 = jsonLines([{ user_id: "U", parent_asin: "A", timestamp: 1 }]);
  await fails(folder({ "X_5.json": new2023, "meta_X.json": jsonLines(META) }), /X_5\.json/, /2023/);
});

t("damaged gzip files name the file", async () => {
  const whole = gzipSync(
    jsonLines(Array.from({ length: 3000 }, (_, k) => ({ ...REVIEWS[0], reviewerID: `U${k * 7919}` }))),
  );
  const meta = gzipSync(jsonLines(META));
  const cut = whole.subarray(0, whole.length - 100);
  await fails(
    folder({ "X_5.json.gz": cut, "meta_X.json.gz": meta }),
    /X_5\.json\.gz: the gzip file is cut off/,
  );
  const damaged = Uint8Array.from(whole);
  damaged.fill(0xff, whole.length >> 1, (whole.length >> 1) + 50);
  await fails(
    folder({ "X_5.json.gz": damaged, "meta_X.json.gz": meta }),
    /X_5\.json\.gz: the gzip file is damaged/,
  );
  await fails(
    folder({ "X_5.json.gz": "plain text", "meta_X.json.gz": meta }),
    /X_5\.json\.gz: not a gzip file/,
  );
  await fails(folder({ "X_5.json.gz": whole, "meta_X.json.gz": "" }), /meta_X\.json\.gz is empty/);
});

t("a few malformed lines are counted, many are an error that names the first", async () => {
  const some = `${jsonLines(REVIEWS)}{"reviewerID": "U1", \n\n[1]\n${jsonLines([{ asin: "A", unixReviewTime: 1 }])}`;
  const raw = await detectAndRead(folder({ "X_5.json": some, "meta_X.json": jsonLines(META) }));
  assert.is(raw.users.length, 4);
  assert.is(raw.files[0].malformed, 3);
  assert.match(raw.files[0].firstMalformed ?? "", /^line 5: not JSON/);

  const good = jsonLines(Array.from({ length: 1000 }, () => REVIEWS[0]));
  const tolerated = await detectAndRead(
    folder({ "X_5.json": good + "{\n".repeat(10), "meta_X.json": jsonLines(META) }),
  );
  assert.is(tolerated.files[0].malformed, 10);
  await fails(
    folder({ "X_5.json": good + "{\n".repeat(11), "meta_X.json": jsonLines(META) }),
    /X_5\.json: 11 of 1011 records are malformed, first at line 1001/,
  );
  const large = await detectAndRead(
    folder({ "X_5.json": good.repeat(2) + "{\n".repeat(15), "meta_X.json": jsonLines(META) }),
  );
  assert.is(large.files[0].malformed, 15, "15 of 2,015 are under one per cent");
  await fails(
    folder({ "X_5.json": '{"reviewerID": 1\n', "meta_X.json": jsonLines(META) }),
    /1 of 1 records are malformed, first at line 1/,
  );
});

t("RecBole: typed headers, title columns, the three ways of categories", async () => {
  const path = folder({
    "ml.inter":
      "user_id:token\titem_id:token\trating:float\ttimestamp:float\r\n1\t10\t5\t3.5\r\n2\t11\t4\t1e9\r\n",
    "ml.item":
      "item_id:token\tmovie_title:token_seq\tclass:token_seq\n10\tToy Story\tAnimation Children's\n11\tHeat\t\n",
  });
  const raw = await detectAndRead(path);
  assert.equal([raw.name, raw.format], ["ml", "recbole"]);
  assert.equal(rows(raw), ["1 10 3.5", "2 11 1000000000"]);
  assert.equal(raw.catalog, [{ title: "Toy Story", category: "Animation Children's" }, { title: "Heat" }]);

  const items = [
    "item_id:token\ttitle:token_seq\tbrand:token\tcategories:token_seq",
    "a\tGlue\tUHU\tHome,Tapes, Adhesives & Sealants",
    "b\tPen\t\t'Office', 'Pens, Pencils'",
    "c\tNo category\tBic\t",
  ].join("\n");
  const inter = "item_id:token\tuser_id:token\na\tx\nb\tx\nc\ty";
  const other = await detectAndRead(folder({ "d.inter": inter, "d.item": items }));
  assert.equal(rows(other), ["x a 0", "x b 1", "y c 2"], "without time stamps, the order of the rows");
  assert.equal(other.catalog, [
    { title: "Glue", brand: "UHU", category: "Tapes, Adhesives & Sealants" },
    { title: "Pen", category: "Pens, Pencils" },
    { title: "No category", brand: "Bic" },
  ]);

  await fails(
    folder({ "d.inter": "user:token\titem_id:token\n1\t2\n", "d.item": items }),
    /d\.inter: line 1/,
    /user_id/,
  );
  await fails(
    folder({ "d.inter": inter, "d.item": "item_id:token\tyear:token\na\t1\n" }),
    /d\.item/,
    /title/,
    /year/,
  );
  const short = await detectAndRead(folder({ "d.inter": `${inter}\nonly-one-field`, "d.item": items }));
  assert.match(short.files[0].firstMalformed ?? "", /^line 5: 1 fields/);
});

const ITEMS_CSV = 'item,title,brand,category\na,"Mug, large",Acme,Kitchen\nb,"A ""blue"" pen",,\n';

t("CSV: quotes, byte order mark, dates, other columns, gzip", async () => {
  const path = folder({
    "shop/interactions.csv":
      "\ufefftimestamp,user,item,rating,note\n2024-05-31T00:00:00Z,u1,a,5,\n7,u2,b,,x\n",
    "shop/items.csv.gz": gzipSync(ITEMS_CSV),
  });
  const raw = await detectAndRead(join(path, "shop"));
  assert.equal([raw.name, raw.format], ["shop", "csv"]);
  assert.equal(rows(raw), [`u1 a ${Date.UTC(2024, 4, 31) / 1000}`, "u2 b 7"]);
  assert.equal(raw.catalog, [
    { title: "Mug, large", brand: "Acme", category: "Kitchen" },
    { title: 'A "blue" pen' },
  ]);
});

t("CSV: missing columns and malformed rows", async () => {
  const good = "user,item,timestamp\nu1,a,1\n";
  const at = (interactions: string, items = ITEMS_CSV): string =>
    folder({ "interactions.csv": interactions, "items.csv": items });
  await fails(at("user,item,time\nu1,a,1\n"), /interactions\.csv: no column timestamp/, /user,item,time/);
  await fails(at(good, "item,name\na,Mug\n"), /items\.csv: no column title/);
  await fails(at("user,item,timestamp\n"), /interactions\.csv holds no records/);
  const raw = await detectAndRead(at(`${good}u2,a\nu3,a,soon\n,a,4\nu4,b,2\n`));
  assert.equal(rows(raw), ["u1 a 1", "u4 b 2"]);
  assert.is(raw.files[0].malformed, 3);
  assert.match(raw.files[0].firstMalformed ?? "", /^line 3: /);
  await fails(at(`user,item,timestamp\n"u1,a,1\nu2,b,2\n`), /interactions\.csv: /);
});

t("JSONL: numbers as ids, category lists", async () => {
  const path = folder({
    "interactions.jsonl": jsonLines([
      { user: 7, item: 1, timestamp: 5 },
      { user_id: "8", item_id: 2, timestamp: "6" },
    ]),
    "items.jsonl": jsonLines([
      { item: 1, title: "Mug", category: ["Home", "Mugs"] },
      { item: 2, title: 1984 },
    ]),
  });
  const raw = await detectAndRead(path);
  assert.is(raw.format, "jsonl");
  assert.equal(rows(raw), ["7 1 5", "8 2 6"]);
  assert.equal(raw.catalog, [{ title: "Mug", category: "Mugs" }, { title: "1984" }]);
  await fails(
    folder({
      "interactions.jsonl": jsonLines([{ user: 1, item: 1 }]),
      "items.jsonl": jsonLines([{ item: 1, title: "Mug" }]),
    }),
    /line 1: timestamp undefined/,
  );
});

t("paths: missing, empty, ambiguous, incomplete, unknown", async () => {
  const recbole = {
    "a.inter": "user_id:token\titem_id:token\n1\t1\n",
    "a.item": "item_id:token\ttitle:token\n1\tMug\n",
  };
  await fails(join(root, "nowhere"), /nowhere/, /no such file/);
  await fails(folder({ "readme.txt": "hello" }), /NAME\.inter/);
  await fails(folder({ "a.inter": recbole["a.inter"] }), /a\.inter has no a\.item beside it/);
  const two = folder({ ...recbole, "b.inter": recbole["a.inter"], "b.item": recbole["a.item"] });
  await fails(two, /2 datasets \(a\.inter, b\.inter\)/);
  assert.is((await detect(join(two, "b.inter"))).name, "b");
  await fails(folder({ ...recbole, "a.inter": "" }), /a\.inter is empty/);
  await fails(folder({ ...recbole, "a.inter": "\n\n" }), /a\.inter/);
  await fails(
    folder({ ...recbole, "a.inter": new Uint8Array([0, 1, 2, 3]) }),
    /a\.inter: line 1 is none of the known formats/,
  );
  await fails({ interactions: join(two, "a.inter"), items: join(two, "c.item") }, /c\.item/, /no such file/);
  await fails({ interactions: root, items: join(two, "a.item") }, /is a folder/);
});

t("titles and categories are cleaned", () => {
  const clean = (raw: unknown): string => {
    const result = cleanTitle(raw);
    return "title" in result ? result.title : result.problem;
  };
  assert.is(clean("AT&T R&D &#39;x&#x27; &amp;quot;"), `AT&T R&D 'x' "`);
  assert.is(clean("a\u00a0 b\u200b\tc\r\n"), "a b c");
  assert.is(clean("I <3 You"), "I <3 You");
  assert.is(clean("&lt;span id=1&gt;"), "broken");
  assert.is(clean("var aPageStart = (new Date()).getTime();"), "broken");
  assert.is(clean("---"), "broken");
  assert.is(clean("  &nbsp; "), "missing");
  for (const nothing of [undefined, null, "", {}, []]) assert.is(clean(nothing), "missing");
  assert.is(clean("日本語"), "日本語");
  assert.is(lastCategory(["Home", "Mugs", "", "x".repeat(61), '</span><span class="a">']), "Mugs");
  assert.is(lastCategory([]), undefined);
});

t.run();
