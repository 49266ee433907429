/** Runs of a job: trained once, loaded afterwards, continued where they stopped, and never mixed up. */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { UserError } from "../src/files/user-error.ts";
import { type JobRun, runOf } from "../src/train/job.ts";
import { Interrupted } from "../src/train/trainer.ts";
import { openTestGpu } from "./gpu.ts";
import { temporaryFolder } from "./temporary.ts";
import { openTinyJob, tinyConfig } from "./tiny-parts.ts";

const t = suite("job");
const gpu = await openTestGpu();
t.after(() => gpu.close());
const home = temporaryFolder();
const job = await openTinyJob(gpu, home);

const MODEL = "model.safetensors";
const model = (folder: string) => readFileSync(join(folder, MODEL));
const contents = async ({ session, embeddings }: JobRun) =>
  Promise.all([gpu.read(session.laser.parameters.values), gpu.read(embeddings)]);

t("a finished run is loaded, not trained again", async () => {
  const folder = join(home, "once");
  using first = await runOf(job, folder, tinyConfig());
  const trained = await contents(first);
  const { mtimeMs } = statSync(join(folder, MODEL));
  const log = readFileSync(join(folder, "metrics.jsonl"), "utf8");
  assert.match(log, /"phase":2/);
  using second = await runOf(job, folder, tinyConfig());
  assert.equal(await contents(second), trained);
  assert.is(statSync(join(folder, MODEL)).mtimeMs, mtimeMs);
  assert.is(readFileSync(join(folder, "metrics.jsonl"), "utf8"), log);
});

t("an interrupted run goes on to the same bits", async () => {
  const folder = join(home, "interrupted");
  const signal = AbortSignal.abort();
  try {
    await runOf({ ...job, signal }, folder, tinyConfig());
    assert.unreachable("it was not interrupted");
  } catch (error) {
    assert.instance(error, Interrupted);
  }
  using _run = await runOf(job, folder, tinyConfig());
  assert.ok(model(folder).equals(model(join(home, "once"))));
});

t("a run of another configuration or recommender is refused by name", async () => {
  const refuses = async (other: Promise<JobRun>, ...parts: string[]) => {
    try {
      await other;
      assert.unreachable("it was accepted");
    } catch (error) {
      assert.instance(error, UserError);
      for (const part of parts) assert.match((error as Error).message, part);
    }
  };
  const folder = join(home, "once");
  await refuses(
    runOf(job, folder, tinyConfig({ lambda: 0 })),
    "whose lambda is 0.1, not 0; choose another folder",
  );
  const settings = { ...job.recommender.settings, epochs: 3 };
  const other = { ...job, recommender: { ...job.recommender, settings } };
  await refuses(runOf(other, folder, tinyConfig()), folder, "another recommender");
  const hash = job.data.dataset.hash.replace(/^./, "z");
  const data = { ...job.data, dataset: { ...job.data.dataset, hash } };
  await refuses(runOf({ ...job, data }, folder, tinyConfig()), folder, "other data");
});

t.run();
