/** Every product kernel on every orientation, whatever this adapter would choose for itself. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { halvesToFloats } from "../src/files/half.ts";
import type { Gpu } from "../src/gpu/device.ts";
import { isQuantized } from "../src/gpu/tensor.ts";
import { packWeights, type WeightStorage } from "../src/llm/weight-stream.ts";
import { type ProductOptions, product } from "../src/ops/product.ts";
import { chooseProduct } from "../src/ops/product-choice.ts";
import { assertClose, noise } from "./close.ts";
import { dequantize } from "./dequantize.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("product");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** What the adapter has, 0 for adapters without shared subgroups, 4 for narrow ones. Set per test on `gpu`. */
const own = gpu.sharedSubgroup;
const families = own >= 8 ? [0, 4, own] : [0, 4];
if (own < 8) console.log("SKIPPED: the subgroup kernels, which this adapter cannot run");

interface Case {
  readonly shape: readonly [m: number, n: number, k: number];
  readonly orientation: "A B" | "A B^T" | "A^T B";
  /** Of B; f32 when missing. */
  readonly storage?: WeightStorage;
  readonly bias?: boolean;
  readonly residual?: boolean;
  readonly accumulate?: boolean;
  /** Elements by which rows are longer than the matrices, and at which A and C begin. */
  readonly margin?: number;
}

/** Runs a case on the GPU and in float64: both as C with its margins. */
async function run(device: Gpu, c: Case): Promise<{ actual: Float32Array; expected: Float64Array }> {
  const [m, n, k] = c.shape;
  const margin = c.margin ?? 0;
  const transposeA = c.orientation === "A^T B";
  const transposeB = c.orientation === "A B^T";
  const lda = (transposeA ? m : k) + margin;
  const ldb = transposeB ? k : n;
  const ldc = n + margin;
  const a = noise(margin + (transposeA ? k : m) * lda, 1);
  const bFloats = noise(n * k, 2);
  const { storage = "f32" } = c;
  const bShape = transposeB ? [n, k] : [k, n];
  const words = packWeights(bFloats, bShape[1], storage);
  let b: ArrayLike<number> = bFloats;
  if (storage === "f16") b = halvesToFloats(new Uint16Array(words.buffer)).subarray(0, n * k);
  if (isQuantized(storage))
    b = dequantize(words as Uint32Array, bShape[0], bShape[1], storage === "int8" ? 8 : 4);
  const bias = noise(n, 3);
  const residual = noise(margin + m * ldc, 4);
  const before = noise(margin + m * ldc, 5);
  const expected = Float64Array.from(before);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const at = margin + i * ldc + j;
      let sum = (c.accumulate ? before[at] : 0) + (c.bias ? bias[j] : 0) + (c.residual ? residual[at] : 0);
      for (let l = 0; l < k; l++) {
        sum +=
          a[margin + (transposeA ? l * lda + i : i * lda + l)] * b[transposeB ? j * ldb + l : l * ldb + j];
      }
      expected[at] = sum;
    }
  }
  const weight = device.parameter(bShape, storage, words);
  const step = device.step("product");
  const out = step.upload(before);
  const options: ProductOptions = {
    transposeA,
    transposeB,
    bias: c.bias ? step.upload(bias) : null,
    residual: c.residual ? step.upload(residual) : null,
    accumulate: c.accumulate,
    lda,
    ldc,
    aOffset: margin,
    cOffset: margin,
  };
  product(step, step.upload(a), weight, out, { m, n, k }, options);
  const actual = step.readFloats(out);
  await step.submit();
  device.release(weight);
  return { actual: await actual, expected };
}

const cases: Case[] = [
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

// Every kernel in every storage: rows of less than one group, of whole groups, of groups and a shorter last one, odd ones.
for (const storage of ["f16", "int8", "int4"] as const) {
  cases.push(
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
  );
}

for (const sharedSubgroup of families) {
  for (const c of cases) {
    const words = [
      c.storage,
      c.bias && "bias",
      c.residual && "residual",
      c.accumulate && "accumulated",
      c.margin && `margin ${c.margin}`,
    ];
    t(
      `shared subgroup ${sharedSubgroup}: ${c.orientation} [${c.shape}] ${words.filter(Boolean)}`,
      async () => {
        gpu.sharedSubgroup = sharedSubgroup;
        const { actual, expected } = await run(gpu, c);
        gpu.sharedSubgroup = own;
        assertClose("C", actual, expected, KERNEL_F32);
        // What lies between the rows stays as it was.
        const [, n] = c.shape;
        const margin = c.margin ?? 0;
        const untouched = (_: number, i: number) => i < margin || (i - margin) % (n + margin) >= n;
        assert.equal(actual.filter(untouched), Float32Array.from(expected.filter(untouched)));
      },
    );
  }
}

t("a product repeats to the bit, also when its reduction is split", async () => {
  const c: Case = { shape: [12, 20, 1028], orientation: "A^T B" };
  assert.equal((await run(gpu, c)).actual, (await run(gpu, c)).actual);
});

t("the choice: one kernel for each alignment, splits only for long weight gradients", () => {
  const traits = { m: 512, n: 64, k: 64, transposeA: false, groupsOfFour: true };
  assert.equal(chooseProduct(traits, 0), { kernel: "tile", splits: 1 });
  assert.equal(chooseProduct(traits, 4), { kernel: "registers", splits: 1 });
  assert.equal(chooseProduct(traits, 8), { kernel: "rows", lanes: 8, rows: 32 });
  assert.equal(chooseProduct(traits, 32), { kernel: "rows", lanes: 16, rows: 32 });
  assert.equal(chooseProduct({ ...traits, m: 1 }, 16), { kernel: "rows", lanes: 16, rows: 8 });
  assert.equal(chooseProduct({ ...traits, groupsOfFour: false }, 16), {
    kernel: "strided",
    lanes: 16,
    splits: 1,
  });
  const gradient = { ...traits, m: 64, k: 5000, transposeA: true };
  assert.equal(chooseProduct(gradient, 0), { kernel: "tile", splits: 19 });
  assert.equal(chooseProduct(gradient, 8), { kernel: "columns", lanes: 8, splits: 2 });
  assert.equal(chooseProduct({ ...gradient, k: 300 }, 0), { kernel: "tile", splits: 1 });
});

t.run();
