/** Every product kernel on every orientation, whatever this adapter would choose for itself. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { chooseProduct, type ProductTraits } from "../src/ops/product-choice.ts";
import { productNaive } from "../src/ops/product-naive.ts";
import { assertClose, noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import {
  checkProduct,
  describeProduct,
  type ProductCase,
  productFamilies,
  runProduct,
} from "./product-case.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("product");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const cases: ProductCase[] = [
  { shape: [1, 1, 1], orientation: "A B^T", bias: true },
  { shape: [1, 4, 4], orientation: "A B^T", bias: true },
  { shape: [9, 68, 36], orientation: "A B^T", bias: true, residual: true },
  { shape: [67, 132, 172], orientation: "A B^T", bias: true, residual: true, accumulate: true, margin: 4 },
  { shape: [67, 132, 173], orientation: "A B^T", bias: true, residual: true, accumulate: true, margin: 3 },
  { shape: [1, 68, 12], orientation: "A B" },
  { shape: [67, 132, 172], orientation: "A B", accumulate: true, margin: 8 },
  { shape: [35, 66, 31], orientation: "A B", bias: true, margin: 1 },
  { shape: [36, 68, 7], orientation: "A^T B", accumulate: true, margin: 4 },
  { shape: [35, 69, 8], orientation: "A^T B", margin: 1 },
  // Long reductions over small outputs: split.
  { shape: [12, 20, 1031], orientation: "A^T B", accumulate: true },
  { shape: [12, 20, 1028], orientation: "A^T B" },
  { shape: [7, 5, 1030], orientation: "A^T B", accumulate: true },
];

/** The longest extents of real layers: 8,192 tokens, ChatGLM2's 27,392 columns of gate and up, each way. */
const long: ProductCase[] = [
  { shape: [8192, 68, 65], orientation: "A B^T", bias: true },
  { shape: [8191, 66, 64], orientation: "A B" },
  { shape: [2, 27392, 68], orientation: "A B^T", bias: true, residual: true },
  { shape: [3, 68, 27392], orientation: "A B" },
  { shape: [64, 68, 8192], orientation: "A^T B" },
  { shape: [27392, 7, 36], orientation: "A^T B", accumulate: true },
];

for (const sharedSubgroup of productFamilies(gpu)) {
  for (const c of [...cases, ...long]) {
    t(`shared subgroup ${sharedSubgroup}: ${describeProduct(c)}`, () => checkProduct(gpu, sharedSubgroup, c));
  }
}

const large: ProductCase[] = [
  ...cases,
  ...long,
  // More than one tile of 128 each way, and tiles that end in the lanes' first and in their second group of four.
  { shape: [131, 259, 9], orientation: "A B^T", bias: true, residual: true, accumulate: true, margin: 3 },
  { shape: [193, 130, 24], orientation: "A B", bias: true },
  { shape: [258, 196, 17], orientation: "A^T B", accumulate: true, margin: 1 },
  { shape: [128, 128, 8], orientation: "A B^T" },
];
for (const c of large) {
  const choice = { kernel: "large", splits: c.shape[2] > 1000 ? 3 : 1 } as const;
  t(describeProduct({ ...c, choice }), () => checkProduct(gpu, 0, { ...c, choice }));
}

for (const { shape, orientation } of cases) {
  t(`naive: ${orientation} [${shape}]`, async () => {
    const [m, n, k] = shape;
    const transposeA = orientation === "A^T B";
    const transposeB = orientation === "A B^T";
    const [a, b] = [noise(m * k, 1), noise(k * n, 2)];
    const expected = new Float64Array(m * n);
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        for (let l = 0; l < k; l++)
          expected[i * n + j] +=
            a[transposeA ? l * m + i : i * k + l] * b[transposeB ? j * k + l : l * n + j];
      }
    }
    const step = gpu.step("naive product");
    const out = step.tensor([m, n]);
    productNaive(step, step.upload(a), step.upload(b), out, { m, n, k }, { transposeA, transposeB });
    const read = step.readFloats(out);
    await step.submit();
    assertClose("C", await read, expected, KERNEL_F32);
  });
}

t("a product repeats to the bit, also when its reduction is split", async () => {
  const c: ProductCase = { shape: [12, 20, 1028], orientation: "A^T B" };
  assert.equal((await runProduct(gpu, c)).actual, (await runProduct(gpu, c)).actual);
});

t("the choice: one kernel for each alignment, splits only for long weight gradients", () => {
  const traits = { m: 512, n: 64, k: 64, transposeA: false, groupsOfFour: true, stored: "f32" } as const;
  const choose = (of: ProductTraits, sharedSubgroup: number) =>
    chooseProduct(of, { sharedSubgroup, subgroupMatrix: null });
  assert.equal(choose(traits, 0), { kernel: "tile", splits: 1 });
  assert.equal(choose({ ...traits, m: 2048, n: 1024 }, 0), { kernel: "large", splits: 1 });
  assert.equal(choose({ ...traits, m: 2048, n: 896 }, 0), { kernel: "tile", splits: 1 });
  assert.equal(choose(traits, 4), { kernel: "rows", lanes: 4, rows: 32 });
  assert.equal(choose({ ...traits, groupsOfFour: false }, 4), { kernel: "registers", splits: 1 });
  assert.equal(choose(traits, 2), { kernel: "registers", splits: 1 });
  assert.equal(choose(traits, 8), { kernel: "rows", lanes: 8, rows: 32 });
  assert.equal(choose(traits, 32), { kernel: "rows", lanes: 16, rows: 32 });
  assert.equal(choose({ ...traits, m: 1 }, 16), { kernel: "rows", lanes: 16, rows: 8 });
  assert.equal(choose({ ...traits, groupsOfFour: false }, 16), {
    kernel: "strided",
    lanes: 16,
    splits: 1,
  });
  const gradient = { ...traits, m: 64, k: 5000, transposeA: true };
  assert.equal(choose(gradient, 0), { kernel: "tile", splits: 19 });
  assert.equal(choose(gradient, 8), { kernel: "columns", lanes: 8, splits: 2 });
  assert.equal(choose({ ...gradient, k: 300 }, 0), { kernel: "tile", splits: 1 });
});

t.run();
