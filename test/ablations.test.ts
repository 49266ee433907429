/** The table of ablations: its rows, its figures, and the command that trains and prints it. */
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { TEMPLATES } from "../src/data/template.ts";
import { type AblationReport, buildAblationReport, spread } from "../src/eval/ablation-report.ts";
import { formatAblations } from "../src/eval/ablation-text.ts";
import type { EvaluationCases } from "../src/eval/cases.ts";
import type { Ranks } from "../src/eval/rank.ts";
import { UserError } from "../src/files/user-error.ts";
import { ABLATIONS, ablationsNamed, planRows, type Sweep } from "../src/train/ablations.ts";
import { type ConfigName, defaultConfig, FIELDS } from "../src/train/config.ts";
import { assertUserError, laser, laserOk, startLaser, until } from "./laser-process.ts";
import { temporaryFolder } from "./temporary.ts";
import { TINY_PRETRAIN, TINY_TRAIN, writeTinyBackbone, writeTinyData } from "./tiny-job.ts";

const t = suite("ablations");

t("every row of Tables 3, 4 and 5 is there, and differs from the default where it says", () => {
  const rows = (table: string) => ABLATIONS.filter((row) => row.table === table).map(({ row }) => row);
  assert.equal(rows("Tables 3, 4"), [
    "w/o prefix",
    "w/o suffix, w/ average pooling",
    "w/o suffix, w/ [EOS]",
    "w/o M-Former",
    "w/ one expert",
    "w/o load-balancing loss",
    "w/o training phase 1",
    "w/o training phase 2",
  ]);
  assert.equal(rows("Table 5"), ["w/o specified phrase", "w/o instruction", "w/ two instructions"]);
  assert.equal(
    ABLATIONS.flatMap(({ fields }) => fields.template ?? []),
    TEMPLATES.filter((name) => name !== "paper"),
  );
  const defaults = defaultConfig();
  for (const { name, fields } of ABLATIONS) {
    assert.ok(Object.keys(fields).length > 0, name);
    for (const [field, value] of Object.entries(fields)) {
      assert.ok(Object.hasOwn(FIELDS, field), `${name}: ${field}`);
      assert.not.equal(value, defaults[field as ConfigName], `${name}: ${field}`);
    }
  }
  const names = ABLATIONS.map(({ name }) => name);
  assert.is(new Set(names).size, names.length);
});

t("rows by name and by group, each once, in the table's order", () => {
  const names = (...wanted: string[]) => ablationsNamed(wanted, "--rows").map(({ name }) => name);
  assert.equal(names("eos", "no-prefix", "eos"), ["no-prefix", "eos"]);
  assert.equal(names("table3"), names("table4"));
  assert.is(names("table3", "table5", "variants").length, ABLATIONS.length);
  assert.equal(names("table5", "no-phrase").length, 3);
  assert.equal(names(), []);
  assert.throws(
    () => names("eoss"),
    (error: Error) => error instanceof UserError && /--rows eoss: there are/.test(error.message),
  );
});

t("a plan: the full Laser, the ablations, a row for every swept value; k follows a smaller K", () => {
  const base = { ...defaultConfig(), lambda: 0.2 };
  const sweeps: Sweep[] = [
    { field: "experts", values: [1, 8] },
    { field: "pooling", values: ["mean"] },
  ];
  const rows = planRows(base, ablationsNamed(["eos"], "test"), sweeps);
  assert.equal(
    rows.map(({ name, label, table }) => [name, label, table]),
    [
      ["laser", "Laser", ""],
      ["eos", "w/o suffix, w/ [EOS]", "Tables 3, 4"],
      ["experts=1", "experts=1 (activeExperts=1)", "sweep of experts"],
      ["experts=8", "experts=8", "sweep of experts"],
      ["pooling=mean", "pooling=mean", "sweep of pooling"],
    ],
  );
  assert.equal(rows[0].config, base);
  assert.equal(rows[1].config, { ...base, pooling: "eos" });
  assert.equal(rows[2].config, { ...base, experts: 1, activeExperts: 1 });
  assert.equal(rows[3].config, base);
  assert.throws(
    () => planRows({ ...base, prefix: "none" }, ablationsNamed(["eos"], "test"), []),
    /row eos: .* nothing to train/,
  );
});

t("mean and standard deviation over the seeds", () => {
  assert.equal(spread([0.1, 0.3]).mean, 0.2);
  assert.ok(Math.abs(spread([0.1, 0.3]).deviation! - Math.SQRT2 / 10) < 1e-15);
  assert.equal(spread([0.25]), { values: [0.25], mean: 0.25, deviation: null });
  assert.equal(spread([]), { values: [], mean: null, deviation: null });
  assert.equal(spread([Number.NaN]), { values: [], mean: null, deviation: null });
});

const ranks = (...rank: number[]): Ranks => ({
  rank: Float64Array.from(rank),
  tied: new Uint8Array(rank.length),
});

/** Four users, the last two with a cold target; two seeds of two rows. */
function reportOf(cold = [0, 0, 1, 1]): AblationReport {
  const item = { history: Uint32Array.of(0), target: 1 };
  const evaluation: EvaluationCases = {
    split: "test",
    users: Uint32Array.of(0, 1, 2, 3),
    cases: [item, item, item, item],
    cold: Uint8Array.from(cold),
    skipped: 0,
  };
  const row = (name: string, table: string, first: Ranks, second: Ranks) => {
    return { name, label: name, table, fields: {}, folders: ["a", "b"], ranks: [first, second] };
  };
  return buildAblationReport({
    data: { name: "made up", hash: "h", items: 50 },
    backbone: "tiny",
    evaluation,
    excludeSeen: false,
    seeds: [1, 2],
    references: [{ name: "popularity", ranks: ranks(1, 20, 20, 1) }],
    rows: [
      row("Laser", "", ranks(1, 20, 3, 20), ranks(2, 2, 2, 20)),
      row("other", "Tables 3, 4", ranks(1, 20, 20, 20), ranks(20, 20, 20, 20)),
    ],
  });
}

t("figures by hand: means over users and seeds, cold users, paired differences", () => {
  const [full, other] = reportOf().rows;
  assert.equal(full.metrics["recall@10"].values, [0.5, 0.75]);
  assert.is(full.metrics["recall@10"].mean, 0.625);
  assert.equal(full.metrics["cold recall@10"].values, [0.5, 0.5]);
  assert.equal(full.metrics["cold recall@10"].deviation, 0);
  assert.ok(Math.abs(full.metrics.mrr.values[0] - (1 + 1 / 20 + 1 / 3 + 1 / 20) / 4) < 1e-15);
  assert.is(full.difference, null);
  const { values, mean, deviation, low, high, p } = other.difference!["recall@10"];
  assert.equal(values, [-0.25, -0.75]);
  assert.is(mean, -0.5);
  assert.ok(Math.abs(deviation! - Math.sqrt(0.125)) < 1e-15);
  // Users lose 0.5, 0.5, 1 and 0 of the two seeds: the interval is of their mean.
  assert.ok(low! >= -1 && high! <= 0 && low! < -0.5 && high! > -0.5);
  assert.ok(p! > 0 && p! < 1);
  assert.is(reportOf().references[0].metrics["recall@10"], 0.5);
  assert.throws(() => buildAblationReport({ ...optionsOf(), seeds: [1] }), /expected 1 seeds of 1 users/);
});

function optionsOf() {
  return {
    data: { name: "x", hash: "h", items: 2 },
    backbone: "tiny",
    evaluation: {
      split: "test" as const,
      users: Uint32Array.of(0),
      cases: [{ history: Uint32Array.of(0), target: 1 }],
      cold: Uint8Array.of(0),
      skipped: 0,
    },
    excludeSeen: false,
    seeds: [1, 2],
    references: [],
    rows: [
      { name: "Laser", label: "Laser", table: "", fields: {}, folders: [], ranks: [ranks(1), ranks(1)] },
    ],
  };
}

t("the text: every value, differences below, headings of the tables, dashes where nobody is", () => {
  const text = formatAblations(reportOf());
  assert.match(text, /^made up: the test item of 4 users \(2 with a cold one\) among all 50 items/);
  assert.match(text, /seeds 1, 2: mean ± standard deviation/);
  assert.match(text, /\nLaser +0\.6250 ±\.1768 /);
  assert.match(text, /\nTables 3, 4\nother +0\.1250 ±\.1768 /);
  assert.match(text, /\n +-\.5000 p=0\.\d{3} /);
  assert.not.match(text, /NaN|undefined|null/);
  const noCold = formatAblations(reportOf([0, 0, 0, 0]));
  assert.match(noCold, /\(0 with a cold one\)/);
  assert.match(noCold, /\nLaser .* -\n/);
  for (const line of text.split("\n")) assert.ok(line.length <= 120, line);
});

const home = temporaryFolder();
t.before(async () => {
  writeTinyData(join(home, "raw"));
  await writeTinyBackbone(join(home, "backbone"));
});

const COMMAND = [
  "ablations",
  "--data",
  "runs/data/raw",
  "--backbone",
  "backbone",
  "--recommender",
  "recommender",
  ...TINY_TRAIN,
];
const FOLDER = join(home, "runs/ablations/raw-backbone");
/** When each run's model was written. */
const written = () =>
  Object.fromEntries(
    readdirSync(FOLDER, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => [name, statSync(join(FOLDER, name, "model.safetensors")).mtimeMs]),
  );

t("the command: trains every row and seed once, goes on after Ctrl-C, prints the same again", async () => {
  await laserOk(["data", "raw"], home);
  await laserOk(["pretrain", "--data", "runs/data/raw", "--out", "recommender", ...TINY_PRETRAIN], home);
  const table = [...COMMAND, "--seeds", "1,2", "--rows", "no-mformer,eos", "--sweep", "lambda=0.1,0"];
  const { child, finished } = startLaser(table, home);
  let log = "";
  child.stderr!.on("data", (piece) => {
    log += piece;
  });
  await until("the third run", () => /3\/10 /.test(log), child);
  child.kill("SIGINT");
  const { code, stderr } = await finished;
  assert.is(code, 130, stderr);
  assert.match(stderr, /the same command goes on from there/);

  const text = await laserOk(table, home);
  assert.match(text, /^raw: the test item of 24 users/);
  const runs = written();
  // The swept lambda of 0.1 is the full Laser's own: its run.
  assert.equal(
    Object.keys(runs).sort(),
    ["eos", "lambda=0", "laser", "no-mformer"].flatMap((name) => [`${name}-seed1`, `${name}-seed2`]),
  );
  assert.is(await laserOk(table, home), text);
  assert.equal(written(), runs, "a finished run was trained again");
  const report = JSON.parse(await laserOk([...table, "--json"], home)) as AblationReport;
  assert.equal(JSON.parse(readFileSync(join(FOLDER, "ablations.json"), "utf8")), report);
  assert.equal(
    report.rows.map(({ name }) => name),
    ["laser", "eos", "no-mformer", "lambda=0.1", "lambda=0"],
  );
  assert.equal(report.rows[3].metrics, report.rows[0].metrics);
  assert.equal(report.rows[3].difference!.mrr.values, [0, 0]);
  assert.equal(
    report.references.map(({ name }) => name),
    ["popularity", "Markov-1", "BERT4Rec"],
  );

  // A run of the table is an ordinary run: laser evaluate finds the same figures.
  const folder = join(FOLDER, "eos-seed2");
  const own = JSON.parse(await laserOk(["evaluate", folder, "--json"], home));
  const eos = report.rows[1].metrics;
  assert.ok(Math.abs(own.rows.at(-1).all.metrics.mrr.value - eos.mrr.values[1]) < 1e-12);
  assert.ok(Math.abs(own.rows.at(-1).all.metrics["recall@10"].value - eos["recall@10"].values[1]) < 1e-12);
  assert.ok(
    Math.abs(own.rows.at(-1).cold.metrics["recall@10"].value - eos["cold recall@10"].values[1]) < 1e-12,
  );
  // Ranked on the other split, nothing is trained either.
  assert.match(await laserOk([...table, "--split", "validation"], home), /^raw: the validation item/);
  assert.equal(written(), runs);
});

t("train --ablation: the fields of the row, refused beside a flag that says otherwise", async () => {
  const command = ["train", ...COMMAND.slice(1)];
  await laserOk([...command, "--ablation", "eos", "--run", "ended"], home);
  const config = JSON.parse(readFileSync(join(home, "ended/config.json"), "utf8"));
  assert.equal([config.pooling, config.experts], ["eos", 3]);
  assert.not.match(readFileSync(join(home, "ended/model.safetensors"), "latin1").slice(0, 4000), "suffix");
  // A row wins over the file, and agrees with a flag that says the same.
  writeFileSync(join(home, "full.json"), JSON.stringify({ pooling: "suffix", prefix: "mformer" }));
  const both = ["--config", "full.json", "--ablation", "no-mformer", "--prefix", "free"];
  await laserOk([...command, ...both, "--run", "free"], home);
  assert.is(JSON.parse(readFileSync(join(home, "free/config.json"), "utf8")).prefix, "free");
  const refused = async (args: string[], ...parts: string[]) =>
    assertUserError(await laser(args, home), ...parts);
  await refused([...command, "--ablation", "one-expert"], "--experts is 3", "sets experts to 1");
  await refused([...command, "--ablation", "eoss"], "--ablation eoss: there are no-prefix");
  await refused(
    ["train", "--resume", "ended", "--ablation", "mean-pooling"],
    "--ablation mean-pooling",
    "pooling",
  );
});

t("mistakes are refused before anything is trained", async () => {
  const refused = async (args: string[], ...parts: (string | RegExp)[]) =>
    assertUserError(await laser([...COMMAND, "--seeds", "1", ...args], home), ...parts);
  await refused(["--rows", "laser,nothing"], "--rows", "there are no-prefix");
  await refused(["--sweep", "experts"], "expected FIELD=VALUE");
  await refused(["--sweep", "expert=1"], "did you mean experts");
  await refused(["--sweep", "experts=1,0"], "experts is 0");
  await refused(["--sweep", "users=10,20"], "the same for every row");
  await refused(["--seeds", "1,x"], "--seeds x");
  await refused(["--seeds", "3,3"], "named twice");
  await refused(["--seed", "3"], "use --seeds");
  await refused(["--rows", "eos", "--temperature", "0.2"], "whose temperature is 0.05, not 0.2");
});

t.run();
