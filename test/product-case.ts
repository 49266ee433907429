/** One product on the GPU and in float64, as test/product.test.ts and test/product-storage.test.ts run it. */
import * as assert from "uvu/assert";
import { halvesToFloats } from "../src/files/half.ts";
import type { Gpu } from "../src/gpu/device.ts";
import { isQuantized } from "../src/gpu/tensor.ts";
import { packWeights, type WeightStorage } from "../src/llm/weight-stream.ts";
import { type ProductOptions, product } from "../src/ops/product.ts";
import type { ProductChoice } from "../src/ops/product-choice.ts";
import { assertClose, noise } from "./close.ts";
import { dequantize } from "./dequantize.ts";
import { KERNEL_F32 } from "./tolerances.ts";

export interface ProductCase {
  readonly shape: readonly [m: number, n: number, k: number];
  readonly orientation: "A B" | "A B^T" | "A^T B";
  /** Of B; f32 when missing. */
  readonly storage?: WeightStorage;
  readonly bias?: boolean;
  readonly residual?: boolean;
  readonly accumulate?: boolean;
  /** Of A's elements; 1 when missing. */
  readonly magnitude?: number;
  /** Elements by which rows are longer than the matrices, and at which A and C begin. */
  readonly margin?: number;
  /** See ProductOptions. */
  readonly half?: boolean;
  /** The kernel, where the adapter's own is not asked for. */
  readonly choice?: ProductChoice;
}

/** What a kernel rounds before it multiplies. */
export interface Rounding {
  a(row: Float32Array): Float32Array;
  b(value: number): number;
}

/** Runs a case on the GPU and in float64, there with A's rows and B's elements rounded: both as C with its margins. */
export async function runProduct(
  device: Gpu,
  c: ProductCase,
  rounding?: Rounding,
): Promise<{ actual: Float32Array; expected: Float64Array }> {
  const [m, n, k] = c.shape;
  const margin = c.margin ?? 0;
  const transposeA = c.orientation === "A^T B";
  const transposeB = c.orientation === "A B^T";
  const lda = (transposeA ? m : k) + margin;
  const ldb = transposeB ? k : n;
  const ldc = n + margin;
  const a = noise(margin + (transposeA ? k : m) * lda, 1, c.magnitude);
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
  const multiplied = a.slice();
  const place = (i: number, l: number) => margin + (transposeA ? l * lda + i : i * lda + l);
  if (rounding) {
    for (let i = 0; i < m; i++) {
      const row = rounding.a(Float32Array.from({ length: k }, (_, l) => a[place(i, l)]));
      row.forEach((x, l) => {
        multiplied[place(i, l)] = x;
      });
    }
    b = Float64Array.from(b, rounding.b);
  }
  const expected = Float64Array.from(before);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const at = margin + i * ldc + j;
      let sum = (c.accumulate ? before[at] : 0) + (c.bias ? bias[j] : 0) + (c.residual ? residual[at] : 0);
      for (let l = 0; l < k; l++) {
        sum += multiplied[place(i, l)] * b[transposeB ? j * ldb + l : l * ldb + j];
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
    half: c.half,
    choice: c.choice,
  };
  product(step, step.upload(a), weight, out, { m, n, k }, options);
  const actual = step.readFloats(out);
  await step.submit();
  device.release(weight);
  return { actual: await actual, expected };
}

/**
 * Subgroup sizes that lead to each family of kernels on this adapter: tiles in workgroup memory, and subgroups of 4, 8 and 16
 * lanes as far as its own go (a workgroup is then part of a subgroup).
 */
export function productFamilies(gpu: Gpu): number[] {
  const own = gpu.sharedSubgroup;
  if (own < 4) console.log("SKIPPED: the subgroup kernels, which this adapter cannot run");
  return [0, ...[4, 8, 16].filter((lanes) => lanes <= own)];
}

/** A case as a test's name. */
export function describeProduct(c: ProductCase): string {
  const words = [
    c.storage,
    c.half && "half",
    c.bias && "bias",
    c.residual && "residual",
    c.accumulate && "accumulated",
    c.choice?.kernel,
    c.margin && `margin ${c.margin}`,
  ];
  return `${c.orientation} [${c.shape}] ${words.filter(Boolean)}`;
}

/** Fails unless the product is right, and what lies between its rows is as it was. */
export async function checkProduct(gpu: Gpu, sharedSubgroup: number, c: ProductCase): Promise<void> {
  const own = gpu.sharedSubgroup;
  gpu.sharedSubgroup = sharedSubgroup;
  const { actual, expected } = await runProduct(gpu, c).finally(() => {
    gpu.sharedSubgroup = own;
  });
  assertClose("C", actual, expected, KERNEL_F32);
  const [, n] = c.shape;
  const margin = c.margin ?? 0;
  const untouched = (_: number, i: number) => i < margin || (i - margin) % (n + margin) >= n;
  assert.equal(actual.filter(untouched), Float32Array.from(expected.filter(untouched)));
}
