import { suite } from "uvu";
import * as assert from "uvu/assert";
import { makeDataset } from "../src/data/dataset.ts";
import { Random } from "../src/data/random.ts";
import { Bootstrap, pairedBootstrap } from "../src/eval/bootstrap.ts";
import { evaluationCases } from "../src/eval/cases.ts";
import { itemsWhere } from "../src/eval/item-filter.ts";
import type { Ranks } from "../src/eval/rank.ts";
import { buildReport, type Report, reportJson } from "../src/eval/report.ts";
import { formatReport } from "../src/eval/report-text.ts";
import { seenItems } from "../src/eval/seen.ts";
import { METRICS, summarize } from "../src/eval/summary.ts";
import { UserError } from "../src/files/user-error.ts";

const t = suite("eval: intervals, summaries, reports");

function ranksOf(rank: readonly number[], tied: readonly number[] = rank.map(() => 0)): Ranks {
  return { rank: Float64Array.from(rank), tied: Uint8Array.from(tied) };
}

function randomRanks(n: number, seed: number, best = 1): Ranks {
  const random = new Random(seed, "report test");
  return ranksOf(Array.from({ length: n }, () => best + random.below(60)));
}

/** Users of four items among 20 each, so that item 19 and its neighbours are rare. */
function datasetOf(users: number) {
  const random = new Random(3, "dataset");
  const item = () => Math.min(random.below(20), random.below(20));
  return makeDataset({
    name: "made up",
    users: Array.from({ length: users }, (_, u) => `u${u}`),
    items: Array.from({ length: 20 }, (_, i) => ({ id: `i${i}`, title: `Item ${i}` })),
    sequences: Array.from({ length: users }, () => Uint32Array.from({ length: 4 }, item)),
    provenance: { format: "test", core: 0, duplicates: "keep", dropped: [], files: [], unusedItems: 0 },
  });
}

function messageOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return (error as Error).message;
  }
  return "";
}

t("the bootstrap interval of a mean is the textbook's", () => {
  const n = 400;
  const random = new Random(1, "normal");
  const column = Float64Array.from({ length: n }, () => 5 + 2 * random.normal());
  const mean = column.reduce((a, b) => a + b, 0) / n;
  const deviation = Math.sqrt(column.reduce((sum, x) => sum + (x - mean) ** 2, 0) / n);
  const { value, low, high } = new Bootstrap([column]).estimate(0);
  assert.ok(Math.abs(value! - mean) < 1e-12);
  // Half the width is 1.96 standard errors, up to the noise of the 2.5 % points of 1000 resamples (about 5 %).
  const half = (1.96 * deviation) / Math.sqrt(n);
  for (const end of [mean - low!, high! - mean]) {
    assert.ok(end > 0.85 * half && end < 1.15 * half, `${end} against ${half}`);
  }
});

t("the same seed gives the same interval, another seed another", () => {
  const columns = [Float64Array.from({ length: 50 }, (_, u) => Math.sin(u))];
  const run = (seed: number) => new Bootstrap(columns, { seed }).estimate(0);
  assert.equal(run(4), run(4));
  assert.not.equal(run(4), run(5));
});

t("95 % intervals hold the true mean about 95 times in 100", () => {
  const trials = 300;
  let covered = 0;
  for (let trial = 0; trial < trials; trial++) {
    const random = new Random(trial, "coverage");
    const column = Float64Array.from({ length: 200 }, () => (random.uniform() < 0.2 ? 1 : 0));
    const { low, high } = new Bootstrap([column], { resamples: 200, seed: trial }).estimate(0);
    if (low! <= 0.2 && high! >= 0.2) covered++;
  }
  assert.ok(covered > 0.9 * trials && covered < 0.99 * trials, `${covered} of ${trials}`);
});

t("a paired difference is found where the two intervals overlap", () => {
  const random = new Random(2, "paired");
  const a = Array.from({ length: 300 }, () => random.normal());
  const b = a.map((x) => x - 0.02 - 0.05 * random.normal());
  const { value, low, high, p } = pairedBootstrap(a, b);
  assert.ok(low! > 0 && value! > low! && high! > value!);
  assert.is(p, 2 / 1001);
  const reversed = pairedBootstrap(b, a);
  assert.ok(Math.abs(reversed.value! + value!) < 1e-12 && reversed.high! < 0);
  const shuffled = pairedBootstrap(a, new Random(9).shuffle([...b]));
  assert.ok(shuffled.low! < 0 && shuffled.high! > 0 && shuffled.p! > 0.05);
});

t("no difference has p = 1", () => {
  const a = [0, 1, 0, 1, 1];
  assert.equal(pairedBootstrap(a, a), { value: 0, low: 0, high: 0, p: 1 });
});

t("no users, one user, and numbers that are not finite", () => {
  assert.equal(pairedBootstrap([], []), { value: null, low: null, high: null, p: null });
  assert.equal(pairedBootstrap([3], [1]), { value: 2, low: null, high: null, p: null });
  assert.equal(new Bootstrap([Float64Array.of(0.5)]).estimate(0), { value: 0.5, low: null, high: null });
  assert.throws(() => new Bootstrap([Float64Array.of(1, Number.NaN)]), "user row 1");
  assert.throws(() => new Bootstrap([Float64Array.of(1), Float64Array.of(1, 2)]), "columns of 1 and of 2");
});

t("metrics, ties and the cold split by hand", () => {
  const summary = summarize(ranksOf([1, 5.5, 10, 40], [0, 1, 0, 1]), [0, 1, 0, 1]);
  const value = (split: "all" | "cold" | "warm") => (n: number) =>
    summary[split].metrics[METRICS[n].name].value!;
  const close = (found: number, expected: number) =>
    assert.ok(Math.abs(found - expected) < 1e-12, `${found}, expected ${expected}`);
  const names = METRICS.map(({ name }) => name);
  assert.equal(names, ["recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr"]);
  const expected = [1 / 4, 3 / 4, 3 / 4, 1 / 4, (1 + 1 / Math.log2(6.5) + 1 / Math.log2(11)) / 4];
  expected.forEach((number, n) => {
    close(value("all")(n), number);
  });
  close(value("all")(6), (1 + 1 / 5.5 + 1 / 10 + 1 / 40) / 4);
  close(value("cold")(1), 1 / 2);
  close(value("warm")(6), (1 + 1 / 10) / 2);
  assert.equal([summary.all.users, summary.cold.users, summary.warm.users], [4, 2, 2]);
  assert.equal([summary.all.tiedShare, summary.cold.tiedShare, summary.warm.tiedShare], [0.5, 1, 0]);
});

t("a rank that is not finite is an error", () => {
  assert.match(
    messageOf(() => summarize(ranksOf([1, Number.NaN]), [0, 0])),
    /user row 1 has rank NaN/,
  );
  assert.match(
    messageOf(() => summarize(ranksOf([0]), [0])),
    /rank 0/,
  );
});

t("seen items: each once, never the target", () => {
  assert.equal([...seenItems({ history: [7, 100, 7, 3, 20], target: 3 })], [7, 20, 100]);
  assert.is(seenItems({ history: [3, 3], target: 3 }).length, 0);
});

function madeUpReport(users: number, subject?: string): Report {
  const dataset = datasetOf(users);
  const methods = [
    { name: "popularity", ranks: randomRanks(users, 1, 5) },
    { name: "Laser", ranks: randomRanks(users, 2) },
    { name: "Laser w/o M-Former", ranks: ranksOf(new Array(users).fill(10.5), new Array(users).fill(1)) },
  ];
  const evaluation = evaluationCases(dataset);
  return buildReport({ dataset, evaluation, methods, excludeSeen: false, subject });
}

t("a report as JSON: rows, splits and differences agree", () => {
  const report: Report = JSON.parse(reportJson(madeUpReport(200, "Laser")));
  assert.equal([report.format, report.version], ["laser evaluation", 1]);
  assert.equal(
    report.rows.map((row) => row.name),
    ["popularity", "Laser", "Laser w/o M-Former"],
  );
  const { all, cold, warm, skipped } = report.users;
  assert.is(cold + warm, all);
  assert.ok(cold > 0 && warm > 0);
  assert.is(skipped, 0);
  assert.is(report.rows[2].all.tiedShare, 1);
  assert.equal(report.rows[2].all.metrics["recall@10"], { value: 0, low: 0, high: 0 });
  assert.equal(
    report.differences.map(({ of, from }) => `${of} - ${from}`),
    ["Laser - popularity", "Laser - Laser w/o M-Former"],
  );
  for (const split of ["all", "cold", "warm"] as const) {
    for (const { name } of METRICS) {
      const difference = report.differences[0][split][name];
      const rows = report.rows[1][split].metrics[name].value! - report.rows[0][split].metrics[name].value!;
      assert.ok(Math.abs(difference.value! - rows) < 1e-12);
      assert.ok(difference.low! <= difference.value! && difference.value! <= difference.high!);
    }
  }
});

t("a report as text: aligned, not too wide, every row and split in it", () => {
  const text = formatReport(madeUpReport(200, "Laser"));
  const lines = text.trimEnd().split("\n");
  assert.ok(Math.max(...lines.map((line) => line.length)) <= 120, text);
  for (const part of [
    "popularity",
    "Recall@10",
    "NDCG@20",
    "MRR",
    "Cold targets",
    "Laser minus",
    "200 users",
  ]) {
    assert.ok(text.includes(part), `${part} in\n${text}`);
  }
  const heading = lines.find((line) => line.includes("Recall@5"))!;
  const row = lines.find((line) => line.startsWith("Laser "))!;
  const end = heading.indexOf("Recall@20") + "Recall@20".length;
  assert.match(row.slice(end - 6, end), /^\d\.\d{4}$/);
  assert.not.ok(/NaN|undefined|null/.test(text), text);
});

t("a report over one user, and one with no cold user", () => {
  const dataset = datasetOf(40);
  const evaluation = evaluationCases(dataset, { users: [7] });
  assert.is(evaluation.cases.length, 1);
  const methods = [
    { name: "a", ranks: ranksOf([2]) },
    { name: "b", ranks: ranksOf([4.5], [1]) },
  ];
  const warm = { ...evaluation, cold: Uint8Array.of(0) };
  const report = buildReport({ dataset, evaluation: warm, methods, excludeSeen: true, subject: "a" });
  assert.equal(report.users, { all: 1, cold: 0, warm: 1, skipped: 0 });
  assert.equal(report.rows[0].cold.metrics.mrr, { value: null, low: null, high: null });
  const text = formatReport(report);
  assert.match(text, /no user's target is cold/);
  assert.match(text, /without the user's seen items/);
  assert.not.ok(/NaN|undefined|null/.test(text), text);
  reportJson(report);
});

t("a report refuses rows that do not belong together", () => {
  const dataset = datasetOf(10);
  const evaluation = evaluationCases(dataset);
  const build = (rows: [string, Ranks][], subject?: string) =>
    messageOf(() => {
      const methods = rows.map(([name, ranks]) => ({ name, ranks }));
      buildReport({ dataset, evaluation, methods, excludeSeen: false, subject });
    });
  assert.match(build([["a", randomRanks(9, 1)]]), /a ranked 9 users of 10/);
  assert.match(
    build([
      ["a", randomRanks(10, 1)],
      ["a", randomRanks(10, 2)],
    ]),
    /two rows have one name/,
  );
  assert.match(build([["a", randomRanks(10, 1)]], "Laser"), /no row is named Laser/);
  const wrong = { ...randomRanks(10, 1), rank: new Float64Array(10).fill(Number.POSITIVE_INFINITY) };
  assert.match(build([["a", wrong]]), /not finite/);
});

const CATALOGUE = [
  { id: "1", title: "A", brand: "3M", category: "Tapes" },
  { id: "2", title: "B", brand: "Fluke", category: "Test & Measurement" },
  { id: "3", title: "C", brand: "3M", category: "Gloves" },
  { id: "4", title: "D" },
];

t("conditions: alternatives within a field, all fields together, any case", () => {
  const chosen = (...conditions: string[]) => {
    const flags = itemsWhere(CATALOGUE, conditions);
    return flags && [...flags];
  };
  assert.is(chosen(), null);
  assert.equal(chosen("brand=3m"), [1, 0, 1, 0]);
  assert.equal(chosen("Category = gloves ", "category=TEST & Measurement"), [0, 1, 1, 0]);
  assert.equal(chosen("brand=3M", "category=gloves", "category=test & measurement"), [0, 0, 1, 0]);
});

t("conditions that cannot be met say what there is", () => {
  const failure = (conditions: string[], items = CATALOGUE) => {
    try {
      itemsWhere(items, conditions);
    } catch (error) {
      assert.ok(error instanceof UserError, String(error));
      assert.not.ok(error.message.includes("\n"));
      return error.message;
    }
    return "";
  };
  assert.match(failure(["colour=red"]), /no field "colour"; use brand or category/);
  assert.match(failure(["category"]), /expected FIELD=VALUE/);
  assert.match(failure(["category="]), /expected FIELD=VALUE/);
  assert.match(failure(["brand=bosch"]), /no item has this brand; the most common of 2 are "3M", "Fluke"/);
  assert.match(failure(["category=test"]), /similar values are "Test & Measurement"/);
  assert.match(failure(["brand=Fluke", "category=Gloves"]), /no item meets these together/);
  assert.match(failure(["brand=3M"], CATALOGUE.slice(3)), /no item of this data has a brand/);
});

t.run();
