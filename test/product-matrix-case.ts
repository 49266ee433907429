/** Products on tensor cores, as test/product-matrix.test.ts and test/emulated-matrices.test.ts run them. */
import * as assert from "uvu/assert";
import { floatToHalf, halfToFloat } from "../src/files/half.ts";
import type { Gpu } from "../src/gpu/device.ts";
import type { SubgroupMatrix } from "../src/gpu/subgroup-matrix.ts";
import { assertClose } from "./close.ts";
import { type ProductCase, runProduct } from "./product-case.ts";
import { KERNEL_F32, STORAGE } from "./tolerances.ts";

/** What pack_rows.wgsl makes of a row, from its definition. */
export function packedRow(row: Float32Array): { values: number[]; scale: number } {
  const most = row.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0);
  const exponent = Math.max(Math.floor(Math.log2(most)), -112) - 14;
  const scale = 2 ** exponent;
  return { values: Array.from(row, (x) => halfToFloat(floatToHalf(x / scale))), scale };
}

/** Runs a case on the matrices; `exact` rounds what the kernel rounds, so that only the f32 sums are left to differ. */
export async function runMatrix(gpu: Gpu, matrix: SubgroupMatrix, c: ProductCase, exact: boolean) {
  const own = gpu.subgroupMatrix;
  gpu.subgroupMatrix = matrix;
  const rounding = {
    a(values: Float32Array): Float32Array {
      const { values: halves, scale } = packedRow(values);
      return Float32Array.from(halves, (x) => x * scale);
    },
    b: (value: number) => halfToFloat(floatToHalf(value)),
  };
  return runProduct(gpu, c, exact ? rounding : undefined).finally(() => {
    gpu.subgroupMatrix = own;
  });
}

/** Fails unless the product on these matrices is right, repeats to the bit, and leaves what lies between its rows. */
export async function checkMatrixProduct(gpu: Gpu, matrix: SubgroupMatrix, c: ProductCase): Promise<void> {
  const { actual, expected } = await runMatrix(gpu, matrix, c, true);
  assertClose("C, against its own roundings", actual, expected, KERNEL_F32);
  const plain = await runMatrix(gpu, matrix, c, false);
  assertClose("C", plain.actual, plain.expected, STORAGE.f16.kernel);
  assert.equal(plain.actual, actual, "repeats to the bit");
  const [, n] = c.shape;
  const margin = c.margin ?? 0;
  const between = (_: number, at: number) => at < margin || (at - margin) % (n + margin) >= n;
  assert.equal(actual.filter(between), Float32Array.from(expected.filter(between)));
}
