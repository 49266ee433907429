import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { SubgroupMatrix } from "../gpu/subgroup-matrix.ts";
import { rowBytes, type Tensor } from "../gpu/tensor.ts";
import { variantOf } from "../gpu/variant.ts";
import { onMatrices } from "../gpu/variants.ts";
import type { ProductShape } from "./product.ts";

/** Elements that the kernel takes along K at a time: rows of A are packed to multiples of it. */
const STEP = 32;

/** Packed rows that are held at once: packing all of a long batch would cost hundreds of MiB. */
const MOST_PACKED_BYTES = 2 ** 24;

/** Rows of A that are packed and multiplied at a time: whole tiles. */
function bandRows(k: number, tile: number): number {
  return Math.max(1, Math.floor(MOST_PACKED_BYTES / (2 * k) / tile)) * tile;
}

/** How A [M, K], B and C [M, N] lie: see ProductOptions. */
export interface MatrixLayout {
  readonly lda: number;
  readonly ldb: number;
  readonly ldc: number;
  readonly aOffset: number;
  readonly cOffset: number;
  readonly transposeB: boolean;
}

/** Rows of an f32 matrix as f16 for tensor cores. */
export interface PackedRows {
  /** u32 [rows, words], two f16 to a word, words a multiple of 16; zero past the width. */
  readonly packed: Tensor;
  /** f32 [rows]: the power of two that a row was divided by. */
  readonly scales: Tensor;
}

/** Packs rows [rows, width], `lda` elements apart from element `offset` of `a` on. Free both tensors after use. */
export function packRows(
  step: Step,
  a: Tensor,
  { rows, width, lda, offset }: { rows: number; width: number; lda: number; offset: number },
): PackedRows {
  const words = (Math.ceil(width / STEP) * STEP) / 2;
  const packed = step.tensor([rows, words], "u32");
  const scales = step.tensor([rows]);
  step.run(kernels.pack_rows, {
    bindings: { a, packed, scales },
    params: { width, lda, a_offset: offset, words, rows },
    workgroups: gridOf(rows),
    cost: { flops: rows * width, bytes: rows * (4 * width + 4 * words) },
  });
  return { packed, scales };
}

/**
 * C = A B (+ bias) (+ residual) (+ C) on tensor cores: A is packed to f16 with a power of two a row, B (f16, int8, int4)
 * multiplied as f16, and summed in f32; rows in bands of at most 16 MiB packed. An element of C differs from the f32 product's by at most about 2^-11 (A's
 * rounding; with int8 and int4 once more, B's) of sum_k |A| |B|.
 */
export function productOnMatrices(
  step: Step,
  a: Tensor,
  b: Tensor,
  c: Tensor,
  { m, n, k }: ProductShape,
  { lda, ldb, ldc, aOffset, cOffset, transposeB }: MatrixLayout,
  matrix: SubgroupMatrix,
  epilogue: { readonly bias: Tensor; readonly residual: Tensor; readonly added: number },
): void {
  const { bias, residual, added } = epilogue;
  const kernel = variantOf(kernels.product_matrix, onMatrices(matrix, b.dtype));
  const overrides = { TRANSPOSE_B: transposeB, GROUPED: [ldb, transposeB ? k : n].every((x) => x % 4 === 0) };
  const weightBytes = transposeB ? n * rowBytes(k, b.dtype) : k * rowBytes(n, b.dtype);
  const band = bandRows(k, 8 * matrix.rows);
  for (let from = 0; from < m; from += band) {
    const rows = Math.min(band, m - from);
    const { packed, scales } = packRows(step, a, { rows, width: k, lda, offset: aOffset + from * lda });
    step.run(kernel, {
      bindings: { a: packed, weights: b, scales, bias, residual, c },
      params: {
        m: rows,
        n,
        k,
        words: packed.shape[1],
        ldb,
        ldc,
        c_offset: cOffset + from * ldc,
        added,
      },
      overrides,
      workgroups: [Math.ceil(n / (8 * matrix.columns)), Math.ceil(rows / (8 * matrix.rows))],
      cost: { flops: 2 * rows * n * k, bytes: packed.bytes + 4 * rows * n + weightBytes },
    });
    step.free(packed);
    step.free(scales);
  }
}
