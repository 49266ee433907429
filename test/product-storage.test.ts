/**
 * Every product kernel with B in every storage of weights, both orientations, against float64 on the values that the
 * stored words stand for: rows of less than one group of 64, of whole groups, of groups and a shorter last one, odd ones.
 */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { product } from "../src/ops/product.ts";
import { openTestGpu } from "./gpu.ts";
import { checkProduct, describeProduct, type ProductCase, productFamilies } from "./product-case.ts";

const t = suite("products of stored weights");
const gpu = await openTestGpu();
// Tensor cores round to f16: test/product-matrix.test.ts.
gpu.subgroupMatrix = null;
t.after(() => gpu.close());

for (const sharedSubgroup of productFamilies(gpu)) {
  for (const storage of ["f16", "int8", "int4"] as const) {
    const cases: ProductCase[] = [
      { shape: [1, 1, 1], orientation: "A B^T", storage, bias: true },
      { shape: [5, 7, 9], orientation: "A B^T", storage },
      { shape: [40, 72, 64], orientation: "A B^T", storage, bias: true },
      { shape: [67, 36, 172], orientation: "A B^T", storage, bias: true, residual: true, margin: 4 },
      { shape: [3, 5, 197], orientation: "A B^T", storage, residual: true, accumulate: true, margin: 1 },
      { shape: [1, 1, 1], orientation: "A B", storage },
      { shape: [5, 7, 9], orientation: "A B", storage, accumulate: true },
      { shape: [40, 72, 64], orientation: "A B", storage },
      { shape: [67, 172, 36], orientation: "A B", storage, bias: true, accumulate: true, margin: 8 },
      { shape: [3, 197, 65], orientation: "A B", storage, bias: true, residual: true, margin: 3 },
    ];
    for (const c of cases) {
      t(`shared subgroup ${sharedSubgroup}: ${describeProduct(c)}`, () =>
        checkProduct(gpu, sharedSubgroup, c),
      );
    }
  }
}

t("a weight gradient takes both operands in f32", async () => {
  const weight = gpu.parameter([4, 4], "int8");
  const step = gpu.step("refused");
  const [a, c] = [step.tensor([4, 4]), step.tensor([4, 4])];
  const shape = { m: 4, n: 4, k: 4 };
  assert.throws(() => product(step, a, weight, c, shape, { transposeA: true }), /B in f32/);
  await step.submit();
  gpu.release(weight);
});

t.run();
