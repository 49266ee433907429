import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { assertUserError, laser, laserOk, startLaser, until } from "./laser-process.ts";
import { repositoryPath } from "./shared.ts";
import { temporaryFolder } from "./temporary.ts";
import { TINY_PRETRAIN, TINY_TRAIN, writeTinyBackbone, writeTinyData } from "./tiny-job.ts";

const t = suite("cli");
const home = temporaryFolder();
/** 24 users, four targets each, two to a batch: 48 updates an epoch, long enough to be interrupted inside. */
const MANY = ["--batch-size", "2", "--examples", "all", "--checkpoint-steps", "7"];
const TRAIN = [
  "train",
  "--data",
  "runs/data/data",
  "--backbone",
  "backbone",
  "--recommender",
  "recommender",
  ...TINY_TRAIN,
];

/** Lines of a run's metrics, as objects; a line being written just now does not count. */
function metrics(run: string): Record<string, number>[] {
  const path = join(home, run, "metrics.jsonl");
  if (!existsSync(path)) return [];
  return readFileSync(path, "utf8")
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Record<string, number>);
}

const updates = (run: string) => metrics(run).filter((row) => row.iic !== undefined);
const model = (run: string) => readFileSync(join(home, run, "model.safetensors"));

t.before(async () => {
  writeTinyData(join(home, "data"));
  await writeTinyBackbone(join(home, "backbone"));
});

t("help of every command, with an example", async () => {
  const overview = await laserOk(["--help"], home);
  for (const name of ["demo", "data", "pretrain", "train", "evaluate", "recommend", "add-items", "compare"]) {
    assert.match(overview, new RegExp(`^  ${name} `, "m"));
    if (name === "compare") continue;
    assert.match(await laserOk([name, "--help"], home), /Examples?:\n/);
  }
});

t("docs/cli.md, docs/config.md and README.md's table of backbones are current", async () => {
  const docs = await laserOk(["docs"], home);
  const written = ["docs/cli.md", "docs/config.md", "README.md"]
    .map((name) => readFileSync(repositoryPath(name), "utf8"))
    .join("");
  assert.is(written, docs, "run: node dist/cli.js docs --write");
});

t("data: prepares, describes, keeps", async () => {
  const text = await laserOk(["data", "data"], home);
  assert.match(text, /users +24\n/);
  assert.match(text, /dropped: fewer than 5 interactions/);
  assert.match(text, /0 malformed/);
  assert.match(text, /in runs\/data\/data/);
  const json = JSON.parse(await laserOk(["data", "runs/data/data", "--json"], home));
  assert.is(json.statistics.users, 24);
  assert.match(text, json.hash);
  // Other data of that name does not replace it: runs may refer to it.
  await laserOk(["data", "data", "--core", "2"], home);
  assert.is(JSON.parse(await laserOk(["data", "runs/data/data", "--json"], home)).hash, json.hash);
  assert.is(readdirSync(join(home, "runs/data")).length, 2);
});

t("pretrain: trains, then finds it cached, anew with --fresh", async () => {
  const command = ["pretrain", "--data", "runs/data/data", "--out", "recommender", ...TINY_PRETRAIN];
  assert.match(await laserOk(command, home), /^trained for data/);
  const first = readFileSync(join(home, "recommender/recommender.safetensors"));
  assert.match(await laserOk(command, home), /^already trained/);
  assert.match(await laserOk([...command, "--fresh"], home), /^trained for data/);
  assert.equal(
    readFileSync(join(home, "recommender/recommender.safetensors")),
    first,
    "training repeats to the bit",
  );
});

t("train: an uninterrupted run, described and logged", async () => {
  await laserOk([...TRAIN, ...MANY, "--run", "whole"], home);
  const config = JSON.parse(readFileSync(join(home, "whole/config.json"), "utf8"));
  assert.is(config.batchSize, 2);
  assert.is(config.temperature, 0.05);
  const info = JSON.parse(readFileSync(join(home, "whole/run.json"), "utf8"));
  assert.is(info.data.name, "data");
  assert.ok(
    info.adapter && info.versions.webgpu !== "unknown" && info.backbone.fingerprint.files["config.json"],
  );
  const rows = updates("whole");
  assert.equal(
    rows.map((row) => row.update),
    rows.map((_, i) => i + 1),
  );
  for (const field of [
    "iic",
    "lb",
    "loss",
    "gradientNorm",
    "learningRate",
    "tokensPerSecond",
    "gpuBytes",
    "hostBytes",
  ]) {
    assert.type(rows[0][field], "number", field);
  }
  assert.not(existsSync(join(home, "whole/lock.json")), "the lock is gone");
});

t("train: killed and resumed, it ends with the same bytes", async () => {
  const { child, finished } = startLaser([...TRAIN, ...MANY, "--run", "killed"], home);
  await until("ten updates", () => updates("killed").length >= 10, child);
  // While it lives, nobody else may write its folder.
  assertUserError(await laser(["train", "--resume", "killed"], home), "another run is using this folder");
  child.kill("SIGKILL");
  assert.is((await finished).signal, "SIGKILL");
  const before = updates("killed").length;
  assert.ok(before < updates("whole").length, `killed only after ${before} updates`);
  await laserOk(["train", "--resume", "killed"], home);
  assert.equal(
    updates("killed").map((row) => row.update),
    updates("whole").map((row) => row.update),
    "each update is logged once",
  );
  assert.ok(
    model("killed").equals(model("whole")),
    "model.safetensors differs from that of the uninterrupted run",
  );
});

t("train: Ctrl-C checkpoints, says how to go on, exits with 130", async () => {
  const { child, finished } = startLaser([...TRAIN, ...MANY, "--run", "stopped"], home);
  await until("three updates", () => updates("stopped").length >= 3, child);
  child.kill("SIGINT");
  const { code, stderr } = await finished;
  assert.is(code, 130, stderr);
  assert.match(stderr, /continue with: laser train --resume stopped\n$/);
  await laserOk(["train", "--run", "stopped", "--resume"], home);
  assert.ok(model("stopped").equals(model("whole")));
});

t("train: a resumed run refuses what contradicts it", async () => {
  const refuse = async (args: string[], ...parts: string[]) =>
    assertUserError(await laser(["train", "--resume", "whole", ...args], home), ...parts);
  await refuse(["--dropout", "0.3"], "--dropout", "0.1");
  await refuse(["--preset", "authors"], "--preset authors", "gates");
  await refuse(["--data", "shop"], "is not the data");
  const changed = join(home, "changed");
  cpSync(join(home, "backbone"), changed, { recursive: true });
  const path = join(changed, "model.safetensors");
  const bytes = readFileSync(path);
  bytes[bytes.length - 1] ^= 1;
  writeFileSync(path, bytes);
  await refuse(["--backbone", changed], "model.safetensors differs");
});

t("train: with a backbone of int8 weights", async () => {
  const short = ["--phase1-epochs", "1", "--phase2-epochs", "0", "--run", "int8"];
  await laserOk([...TRAIN, "--weights", "int8", ...short], home);
  assert.is(JSON.parse(readFileSync(join(home, "int8", "config.json"), "utf8")).weights, "int8");
  assert.ok(updates("int8").every(({ iic }) => Number.isFinite(iic)));
});

t("evaluate, recommend and add-items", async () => {
  const report = JSON.parse(await laserOk(["evaluate", "whole", "--json", "--out", "report.json"], home));
  assert.equal(
    report.rows.map((row: { name: string }) => row.name),
    ["popularity", "Markov-1", "BERT4Rec", "Laser"],
  );
  assert.equal(JSON.parse(readFileSync(join(home, "report.json"), "utf8")), report);
  assert.match(
    await laserOk(["evaluate", "whole", "--users", "5", "--exclude-seen"], home),
    /all \(5 users\)/,
  );
  // The same run with its backbone stored otherwise: the other rows stay, and so does Laser's in the run's own storage.
  const stored = JSON.parse(await laserOk(["evaluate", "whole", "--weights", "f16,int4", "--json"], home));
  assert.equal(stored.rows.slice(0, 3), report.rows.slice(0, 3));
  assert.equal(stored.rows[3], { ...report.rows[3], name: "Laser (f16)" });
  assert.is(stored.rows[4].name, "Laser (int4)");
  assert.is.not(JSON.stringify(stored.rows[4].all), JSON.stringify(report.rows[3].all));
  const compared = stored.differences.map(({ of, from }: Record<string, string>) => [of, from]);
  assert.equal(compared, [["Laser (int4)", "Laser (f16)"]]);
  assertUserError(await laser(["evaluate", "whole", "--weights", "f16,int5"], home), "int5", "int8, int4");
  assertUserError(await laser(["evaluate", "whole", "--weights", "f16,f16"], home), "f16 is named twice");

  const recommend = async (...args: string[]) =>
    JSON.parse(await laserOk(["recommend", "whole", "--json", ...args], home)) as {
      history: { id: string }[];
      recommended: { id: string; category: string; score: number }[];
    };
  const list = await recommend("--user", "user-3", "--top", "4");
  assert.is(list.recommended.length, 4);
  assert.ok(list.history.length >= 3);
  const scores = list.recommended.map(({ score }) => score);
  assert.equal(
    scores,
    [...scores].sort((a, b) => b - a),
  );

  writeFileSync(join(home, "new.csv"), "item,title,brand,category\nfresh-1,Samovar 9,Brand 1,Samovars\n");
  await laserOk(["add-items", "whole", "new.csv"], home);
  assertUserError(await laser(["add-items", "whole", "new.csv"], home), "item fresh-1 is there already");
  const samovars = await recommend("--history", "item-3,fresh-1", "--where", "category=Samovars");
  assert.equal(
    samovars.recommended.map(({ id }) => id),
    ["fresh-1"],
  );
  const unseen = await recommend("--history", "fresh-1,item-3", "--exclude-seen", "--top", "100");
  assert.not(unseen.recommended.some(({ id }) => id === "fresh-1" || id === "item-3"));
  assertUserError(await laser(["recommend", "whole", "--user", "user-33"], home), "user-3");
  assertUserError(await laser(["recommend", "whole", "--history", "item-3,itme-4"], home), "item-4");
});

t.run();
