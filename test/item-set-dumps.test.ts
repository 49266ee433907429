import { readdirSync } from "node:fs";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Comparison } from "../src/eval/compare/compare.ts";
import { openTestGpu } from "./gpu.ts";
import { repositoryPath } from "./shared.ts";

const t = suite("item-set-dumps");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const folder = repositoryPath("test/reference/dumps");

for (const kind of ["iic", "rank", "router", "aggregate"]) {
  t(`PyTorch's ${kind} in float64`, async () => {
    const comparison = new Comparison(gpu, "f32", null);
    const files = readdirSync(folder).filter((name) => name.startsWith(`${kind}-`));
    assert.ok(files.length >= 4, `${files.length} dumps of kind ${kind}`);
    for (const file of files) {
      const { tensors } = await comparison.file(`${folder}/${file}`);
      assert.ok(tensors.length > 0);
      for (const tensor of tensors) {
        if (tensor.skipped !== undefined) assert.unreachable(`${file}: ${tensor.name} was not compared`);
        else assert.ok(tensor.ok, `${file}: ${tensor.name} is off by ${tensor.relative}`);
      }
    }
  });
}

t.run();
