import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { SubgroupMatrix } from "../gpu/subgroup-matrix.ts";
import { rowBytes, type Tensor } from "../gpu/tensor.ts";
import { variantOf } from "../gpu/variant.ts";
import { onMatrices } from "../gpu/variants.ts";
import { packRows, type RowSource } from "./pack-rows.ts";
import type { ProductShape } from "./product.ts";

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
 * C = A B (+ bias) (+ residual) (+ C) on tensor cores: A is packed to f16 with a power of two a row, B (f16, int8, int4)
 * multiplied as f16, and summed in f32; rows in bands of at most 16 MiB packed. An element of C differs from the f32
 * product's by at most about 2^-11 (A's rounding; with int8 and int4 once more, B's) of sum_k |A| |B|.
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
      },
      overrides,
      workgroups: [Math.ceil(n / (8 * matrix.columns)), Math.ceil(rows / (8 * matrix.rows))],
      cost: { flops: 2 * rows * n * k, bytes: packed.bytes + 4 * rows * n + weightBytes },
    });
    step.free(packed);
    step.free(scales);
  }
}
