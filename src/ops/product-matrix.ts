import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { SubgroupMatrix } from "../gpu/subgroup-matrix.ts";
import { rowBytes, type Tensor } from "../gpu/tensor.ts";
import { variantOf } from "../gpu/variant.ts";
import { onMatrices } from "../gpu/variants.ts";
import { packColumns } from "./pack-columns.ts";
import { PACKED_STEP, packRows, type RowSource } from "./pack-rows.ts";
import type { ProductShape } from "./product.ts";
import { sumSlabs } from "./slab-sum.ts";

/** Packed rows that are held at once: packing all of a long batch would cost hundreds of MiB. */
const MOST_PACKED_BYTES = 2 ** 24;

/** Rows of A that are packed and multiplied at a time: whole tiles. */
function bandRows(k: number, tile: number): number {
  return Math.max(1, Math.floor(MOST_PACKED_BYTES / (2 * k) / tile)) * tile;
}

/** How B [K, N] and C [M, N] lie: see ProductOptions. */
export interface MatrixLayout {
  readonly ldb: number;
  readonly ldc: number;
  readonly cOffset: number;
  readonly transposeB: boolean;
}

/** What is added to C: bias [N]; residual, of C's shape and strides; what C holds. */
export interface MatrixEpilogue {
  readonly bias: Tensor | null;
  readonly residual: Tensor | null;
  readonly accumulate: boolean;
}

/**
 * C = A B (+ bias) (+ residual) (+ C) on tensor cores: A is packed to f16 with a power of two a row, B multiplied as f16,
 * and summed in f32; rows in bands of at most 16 MiB packed. An element of C differs from the f32 product's by at most about
 * 2^-11 (A's rounding; unless B is stored in f16, once more, B's) of sum_k |A| |B|.
 */
export function productOnMatrices(
  step: Step,
  a: RowSource,
  b: Tensor,
  c: Tensor,
  { m, n, k }: ProductShape,
  { ldb, ldc, cOffset, transposeB }: MatrixLayout,
  matrix: SubgroupMatrix,
  { bias, residual, accumulate }: MatrixEpilogue,
): void {
  const kernel = variantOf(kernels.product_matrix, onMatrices(matrix, b.dtype));
  const overrides = { TRANSPOSE_B: transposeB, GROUPED: [ldb, transposeB ? k : n].every((x) => x % 4 === 0) };
  const weightBytes = transposeB ? n * rowBytes(k, b.dtype) : k * rowBytes(n, b.dtype);
  // The bits of the kernel's constants BIAS, RESIDUAL and ACCUMULATE.
  const added = (bias ? 1 : 0) | (residual ? 2 : 0) | (accumulate ? 4 : 0);
  const band = bandRows(k, 8 * matrix.rows);
  for (let first = 0; first < m; first += band) {
    const rows = Math.min(band, m - first);
    const { packed, scales } = packRows(step, a, { first, rows, width: k });
    step.run(kernel, {
      bindings: {
        a: packed,
        weights: b,
        scales,
        bias: bias ?? scales,
        residual: residual ?? scales,
        c,
      },
      params: {
        m: rows,
        n,
        k,
        words: packed.shape[1],
        ldb,
        ldc,
        c_offset: cOffset + first * ldc,
        added,
        depth: k,
        split_stride: 0,
      },
      overrides,
      workgroups: [Math.ceil(n / (8 * matrix.columns)), Math.ceil(rows / (8 * matrix.rows))],
      cost: { flops: 2 * rows * n * k, bytes: packed.bytes + 4 * rows * n + weightBytes },
    });
    step.free(packed);
    step.free(scales);
  }
}

/**
 * C [M, N] = A^T B (+ C) on tensor cores, of A [K, M] with rows of lda from element aOffset on and B [K, N] in f32: a weight
 * gradient. A's columns are packed to f16 with a power of two each, B's elements rounded to f16 as they are: below 2^-14
 * they lose bits, and beyond 65504 C is wrong, on most adapters infinite or NaN. The sum over K is made in `splits` parts, added in order.
 */
export function transposedProductOnMatrices(
  step: Step,
  a: Tensor,
  b: Tensor,
  c: Tensor,
  { m, n, k }: ProductShape,
  { lda, aOffset, ldb, ldc, cOffset }: Record<"lda" | "aOffset" | "ldb" | "ldc" | "cOffset", number>,
  { matrix, splits: wanted }: { readonly matrix: SubgroupMatrix; readonly splits: number },
  accumulate: boolean,
): void {
  const { packed, scales } = packColumns(step, a, { rows: k, columns: m, lda, offset: aOffset });
  // Parts end where a step of the kernel does; they lie beside each other, so C must be without gaps.
  const parts = ldc === n && cOffset === 0 ? wanted : 1;
  const depth = Math.max(1, Math.ceil(k / parts / PACKED_STEP)) * PACKED_STEP;
  const splits = Math.max(1, Math.ceil(k / depth));
  const out = splits === 1 ? c : step.tensor([splits, m, n]);
  step.run(variantOf(kernels.product_matrix, onMatrices(matrix, b.dtype)), {
    bindings: { a: packed, weights: b, scales, bias: scales, residual: scales, c: out },
    params: {
      m,
      n,
      k,
      words: packed.shape[1],
      ldb,
      ldc,
      c_offset: cOffset,
      added: accumulate && splits === 1 ? 4 : 0,
      depth,
      split_stride: m * n,
    },
    overrides: { TRANSPOSE_B: false, GROUPED: ldb % 4 === 0 && n % 4 === 0 },
    workgroups: [Math.ceil(n / (8 * matrix.columns)), Math.ceil(m / (8 * matrix.rows)), splits],
    cost: { flops: 2 * m * n * k, bytes: packed.bytes + 4 * (k * n + splits * m * n) },
  });
  step.free(packed);
  step.free(scales);
  if (out === c) return;
  sumSlabs(step, out, c, accumulate);
  step.free(out);
}
