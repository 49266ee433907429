import { basename } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Comparison } from "../src/eval/compare/compare.ts";
import { assertPasses, CHECKPOINTS, committedDumps, DUMPS, testSharpness } from "./dumps.ts";
import { openTestGpu } from "./gpu.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("compare: whole models against the PyTorch dumps");
const gpu = await openTestGpu();
const f32 = new Comparison(gpu, "f32", CHECKPOINTS);
/** For changed copies of dumps, which lie elsewhere. */
const changed = new Comparison(gpu, "f32", DUMPS);
const STORAGES = ["f16", "int8", "int4"] as const;
const stored = STORAGES.map((storage) => new Comparison(gpu, storage, CHECKPOINTS));
t.after(async () => {
  await f32.release();
  for (const comparison of stored) await comparison.release();
  await changed.release();
  gpu.close();
});

const kinds = ["mformer", "bert4rec", "sasrec", "backbone", "laser_step"];
/** Those with a frozen backbone, whose weights may be f16. */
const frozen = ["backbone", "laser_step"];
const dumps = await committedDumps(kinds);

t("there is a dump of every kind", () => {
  assert.equal(
    kinds.filter((kind) => !dumps.some((dump) => dump.kind === kind)),
    [],
  );
});

for (const { path } of dumps) {
  t(basename(path), async () => assertPasses(await f32.file(path)));
}

for (const { path, kind } of dumps.filter((dump) => frozen.includes(dump.kind))) {
  for (const [i, storage] of STORAGES.entries()) {
    t(`${basename(path)}, frozen weights in ${storage}`, async () => {
      const report = await stored[i].file(path);
      assertPasses(report);
      assert.is(report.kind, kind);
    });
  }
}

// Tensor cores round the activations to f16 too; what a storage may lose covers both.
const { offeredMatrix } = gpu;
if (!offeredMatrix)
  console.log(`SKIPPED: models on tensor cores, ${gpu.adapterName} has no subgroup matrices`);
for (const { path } of offeredMatrix ? dumps.filter((dump) => frozen.includes(dump.kind)) : []) {
  for (const [i, storage] of STORAGES.entries()) {
    t(`${basename(path)}, frozen weights in ${storage}, on tensor cores`, async () => {
      const own = gpu.subgroupMatrix;
      gpu.subgroupMatrix = offeredMatrix;
      assertPasses(
        await stored[i].file(path).finally(() => {
          gpu.subgroupMatrix = own;
        }),
      );
    });
  }
}

const own = dumps.filter(({ path }) => !path.includes("stories260K"));
testSharpness(t, () => changed, own, temporaryFolder());

t.run();
