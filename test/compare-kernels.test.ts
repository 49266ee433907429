import { basename } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Comparison } from "../src/eval/compare/compare.ts";
import { KINDS } from "../src/eval/compare/registry.ts";
import { assertPasses, committedDumps, testSharpness } from "./dumps.ts";
import { openTestGpu } from "./gpu.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("compare: kernels against the PyTorch dumps");
const gpu = await openTestGpu();
t.after(() => gpu.close());
const comparison = new Comparison(gpu, "f32", null);

const models = ["mformer", "backbone", "laser_step"];
const kinds = Object.keys(KINDS).filter((kind) => !models.includes(kind));
const dumps = await committedDumps(kinds);

t("there is a dump of every kind", () => {
  assert.equal(
    kinds.filter((kind) => !dumps.some((dump) => dump.kind === kind)),
    [],
  );
});

for (const { path } of dumps) {
  t(basename(path), async () => assertPasses(await comparison.file(path)));
}

testSharpness(t, () => comparison, dumps, temporaryFolder());

for (const storage of ["f16", "int8", "int4"] as const) {
  t(`linear and conv1d with their weight in ${storage}`, async () => {
    const stored = new Comparison(gpu, storage, null);
    for (const { path, kind } of dumps) {
      if (kind === "linear" || kind === "conv1d") assertPasses(await stored.file(path));
    }
  });
}

t.run();
