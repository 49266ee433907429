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

t("linear with its weight in f16", async () => {
  const half = new Comparison(gpu, "f16", null);
  for (const { path, kind } of dumps) if (kind === "linear") assertPasses(await half.file(path));
});

t.run();
