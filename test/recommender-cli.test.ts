/** The command line around recommenders: which one is trained, which one lies under a run, what evaluate shows. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Report } from "../src/eval/report.ts";
import { writeSafetensors } from "../src/files/safetensors.ts";
import { assertUserError, laser, laserOk, startLaser, until } from "./laser-process.ts";
import { temporaryFolder } from "./temporary.ts";
import { TINY_PRETRAIN, TINY_TRAIN, writeTinyBackbone, writeTinyData } from "./tiny-job.ts";

const t = suite("recommenders on the command line");
const home = temporaryFolder();
const DATA = ["--data", "runs/data/data"];
const PRETRAIN = ["pretrain", ...DATA, ...TINY_PRETRAIN];
const ONE_EPOCH = ["--phase1-epochs", "1", "--phase2-epochs", "0", "--checkpoint-steps", "1000"];
const TRAIN = ["train", ...DATA, "--backbone", "backbone", ...TINY_TRAIN, ...ONE_EPOCH];
const readJson = (path: string) => JSON.parse(readFileSync(join(home, path), "utf8"));

t.before(async () => {
  writeTinyData(join(home, "data"));
  await writeTinyBackbone(join(home, "backbone"));
  await laserOk(["data", "data"], home);
  await laserOk([...PRETRAIN, "--recommender", "sasrec", "--out", "sas"], home);
});

t("pretrain: each recommender has its own settings and cache folder", async () => {
  const { recommender, loss, maskRate } = readJson("sas/settings.json");
  assert.equal([recommender, loss, maskRate], ["sasrec", "cross-entropy", undefined]);
  const binary = await laserOk([...PRETRAIN, "--recommender", "sasrec", "--loss", "binary"], home);
  assert.match(binary, /runs\/recommenders\/sasrec-binary-[0-9a-f]{16}-8-2-1-\d+-seed1\n/);
});

t(
  "pretrain: a folder of other settings is trained anew, and nothing of anyone else's in it goes",
  async () => {
    writeFileSync(join(home, "sas/other.safetensors"), "someone else's");
    const before = readFileSync(join(home, "sas/recommender.safetensors"));
    assert.match(await laserOk([...PRETRAIN, "--out", "sas"], home), /^trained/);
    assert.is(readJson("sas/settings.json").recommender, "bert4rec");
    assert.match(await laserOk([...PRETRAIN, "--recommender", "sasrec", "--out", "sas"], home), /^trained/);
    assert.equal(readFileSync(join(home, "sas/recommender.safetensors")), before);
    assert.is(readFileSync(join(home, "sas/other.safetensors"), "utf8"), "someone else's");
  },
);

t("pretrain: flags that do not fit the recommender are refused", async () => {
  const sasrec = [...PRETRAIN, "--recommender", "sasrec"];
  assertUserError(
    await laser([...sasrec, "--mask-rate", "0.1"], home),
    "--mask-rate",
    "bert4rec",
    "sasrec has",
  );
  assertUserError(await laser([...PRETRAIN, "--loss", "binary"], home), "--loss is a setting of sasrec");
  assertUserError(await laser([...sasrec, "--loss", "hinge"], home), "--loss", "cross-entropy, binary");
  assertUserError(
    await laser([...PRETRAIN, "--recommender", "gru"], home),
    "--recommender",
    "bert4rec, sasrec",
  );
  assertUserError(await laser([...PRETRAIN, "--heads", "3"], home), "width 8", "3 heads");
});

t("pretrain: Ctrl-C saves after the update; the same command goes on to the same bits", async () => {
  const steady = ["--epochs", "20", "--patience", "20", "--validate-every", "1", "--batch-size", "2"];
  const command = (folder: string) => [...PRETRAIN, ...steady, "--out", folder];
  const { child, finished } = startLaser(command("stopped"), home);
  await until("the first epoch", () => existsSync(join(home, "stopped/pretrain.safetensors")), child);
  child.kill("SIGINT");
  const { code, stderr } = await finished;
  assert.is(code, 130, stderr);
  assert.match(stderr, /stopping after this update/);
  assert.match(stderr, /goes on when the same command runs again/);
  assert.match(await laserOk(command("stopped"), home), /^trained/);
  await laserOk(command("whole"), home);
  assert.equal(
    readFileSync(join(home, "stopped/recommender.safetensors")),
    readFileSync(join(home, "whole/recommender.safetensors")),
  );
});

t("train: the recommender's folder says which it is; a resumed run keeps its own", async () => {
  await laserOk([...TRAIN, "--recommender", "sas", "--run", "runs/on-sasrec"], home);
  assert.is(readJson("runs/on-sasrec/config.json").recommender, "sasrec");
  assert.is(readJson("runs/on-sasrec/run.json").recommender.settings.recommender, "sasrec");
  const resume = [...TRAIN, "--resume", "runs/on-sasrec"];
  assertUserError(await laser([...resume, "--recommender", "bert4rec"], home), '"bert4rec"', '"sasrec"');
  assertUserError(await laser([...resume, "--recommender", "sas"], home), "--recommender", "its own copy");
  await laserOk([...resume, "--recommender", "sasrec"], home);
  assertUserError(
    await laser([...TRAIN, "--recommender", "gru"], home),
    "--recommender gru",
    "bert4rec or sasrec",
  );
});

t("train: item vectors made elsewhere, and a run on them", async () => {
  const data = Float32Array.from({ length: 20 * 6 }, (_, i) => Math.sin(i));
  await writeSafetensors(join(home, "vectors.safetensors"), [
    { name: "items.weight", dtype: "F32", shape: [20, 6], data },
  ]);
  const ids = Array.from({ length: 20 }, (_, i) => `item-${i}`);
  writeFileSync(join(home, "ids.txt"), `${ids.join("\n")}\n`);
  const given = ["--item-vectors", "vectors.safetensors", "--item-ids", "ids.txt"];
  const { code, stderr } = await laser([...TRAIN, ...given, "--run", "runs/on-vectors"], home);
  assert.is(code, 0, stderr);
  assert.match(stderr, /vectors.safetensors: vectors of 6 numbers for \d+ of the \d+ items/);
  assert.is(readJson("runs/on-vectors/config.json").recommender, "vectors");
  await laserOk(["recommend", "runs/on-vectors", "--history", "item-3,item-4"], home);

  assertUserError(await laser([...TRAIN, ...given, "--recommender", "sasrec"], home), "two recommenders");
  assertUserError(await laser([...TRAIN, ...given.slice(2)], home), "--item-ids ids.txt", "--item-vectors");
  assertUserError(await laser([...TRAIN, ...given.slice(0, 2)], home), "vectors.safetensors", "--item-ids");
  assertUserError(await laser([...TRAIN, "--recommender", "vectors"], home), "--item-vectors FILE");
  writeFileSync(join(home, "vectors.json"), '{"recommender": "vectors"}');
  assertUserError(await laser([...TRAIN, "--config", "vectors.json"], home), "--item-vectors FILE");
  const resume = [...TRAIN, "--resume", "runs/on-vectors"];
  assertUserError(await laser([...resume, ...given], home), "--item-vectors", "its own copy");
});

t("evaluate: two runs, and a recommender alone", async () => {
  const two = await laserOk(["evaluate", "runs/on-sasrec", "runs/on-vectors"], home);
  assert.match(two, /\non-vectors minus on-sasrec, paired by user\n/);
  assert.match(two, /The item vectors of on-vectors have no scores/);
  const alone: Report = JSON.parse(
    await laserOk(["evaluate", ...DATA, "--recommender", "sas", "--json"], home),
  );
  assert.equal(
    alone.rows.map(({ name }) => name),
    ["popularity", "Markov-1", "SASRec"],
  );
  const torn = ["evaluate", "runs/on-sasrec", ...DATA, "--recommender", "sas", "bert4rec"];
  assertUserError(await laser(torn, home), "--recommender sas bert4rec", "give one");
  assertUserError(await laser(["evaluate", "--recommender", "bert4rec"], home), "--recommender", "--data");
});

t.run();
