import type { SubgroupMatrix } from "../gpu/subgroup-matrix.ts";
import type { DType } from "../gpu/tensor.ts";
import { sharingLanes } from "../gpu/variants.ts";

/**
 * Which kernel makes a product, and in how many parts: the one place where adapters and shapes are told apart.
 *
 * | adapter                                   | product                         | kernel                | tile of C     |
 * |-------------------------------------------|---------------------------------|-----------------------|---------------|
 * | software, subgroups of L = 4, 8 or 16     | groups of four, A as it is      | product_rows.wgsl     | 8, 32 x 4 L   |
 * |                                           | groups of four, A^T             | product_columns.wgsl  | 32 x 4 L      |
 * | software, L = 8 or 16                     | else                            | product_strided.wgsl  | 32 x 4 L      |
 * | software, L = 4                           | else                            | product_registers.wgsl| 8 x 64        |
 * | tensor cores (Gpu.subgroupMatrix)         | 32 rows or more, B in f16 or    | product_matrix.wgsl   | 128 x 128     |
 * |                                           | fewer bits, or `half`           |                       |               |
 * | any other                                 | 128 tiles of it, or more        | product_large.wgsl    | 128 x 128     |
 * |                                           | else                            | product.wgsl          | 64 x 64       |
 *
 * The first three share every element they load across a subgroup's registers: on a software adapter a load costs as
 * much as dozens of multiplications, whereas on a GPU the loads of neighbouring lanes are one transaction, and
 * workgroup memory shares them further. What is no multiple of four, four lanes (SwiftShader) read each for itself: a
 * barrier costs more there than the loads it saves.
 *
 * Tensor cores multiply f16: they serve the frozen language model, whose weights are stored so. What is trained (weights in
 * f32, and their gradients) keeps f32 products, unless `half` allows f16 (`--products f16`, forward, input and weight
 * gradient). `--weights f32` keeps the frozen model in f32.
 */
export type ProductChoice =
  | { readonly kernel: "rows"; readonly lanes: 4 | 8 | 16; readonly rows: 8 | 32 }
  | { readonly kernel: "columns" | "strided"; readonly lanes: 4 | 8 | 16; readonly splits: number }
  | { readonly kernel: "tile" | "large" | "registers"; readonly splits: number }
  | { readonly kernel: "matrix"; readonly matrix: SubgroupMatrix; readonly splits: number };

/** What the choice depends on: a Step, or a Gpu. */
export interface ProductAdapter {
  readonly sharedSubgroup: number;
  readonly subgroupMatrix: SubgroupMatrix | null;
}

/** And the product. */
export interface ProductTraits {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transposeA: boolean;
  /** Rows, columns, row lengths and offsets allow reading and writing groups of four. */
  readonly groupsOfFour: boolean;
  /** Storage of B. */
  readonly stored: DType;
  /** Whether operands in f32 may be rounded to f16. */
  readonly half?: boolean;
}

/** Workgroups that keep a software adapter's cores busy to the end. */
const SOFTWARE_WORKGROUPS = 8;
/** Workgroups that fill a GPU, about one for each of its multiprocessors. */
const GPU_WORKGROUPS = 128;
/** A part of a split reduction is at least this long, so that adding the parts stays cheap beside it. */
const LEAST_DEPTH = 256;

/** Fewer tokens would leave most of a tile of 128 empty (or, summed over, make less than a step of the kernel). */
const LEAST_MATRIX_TOKENS = 32;

/** The kernel for a product on an adapter. */
export function chooseProduct(
  { m, n, k, transposeA, groupsOfFour, stored, half = false }: ProductTraits,
  { sharedSubgroup, subgroupMatrix }: ProductAdapter,
): ProductChoice {
  // Only weight gradients have reductions (over the tokens) much longer than their output is large.
  const splits = (tileRows: number, tileColumns: number, wanted: number) => {
    const tiles = Math.ceil(m / tileRows) * Math.ceil(n / tileColumns);
    return transposeA ? Math.max(1, Math.min(Math.ceil(wanted / tiles), Math.floor(k / LEAST_DEPTH))) : 1;
  };
  // The rows that tokens are: of C, or summed over.
  const tokens = transposeA ? k : m;
  if (subgroupMatrix && (half || stored !== "f32") && tokens >= LEAST_MATRIX_TOKENS) {
    const { rows, columns } = subgroupMatrix;
    return {
      kernel: "matrix",
      matrix: subgroupMatrix,
      splits: splits(8 * rows, 8 * columns, GPU_WORKGROUPS),
    };
  }
  if (sharedSubgroup === 0) {
    const large = Math.ceil(m / 128) * Math.ceil(n / 128) >= GPU_WORKGROUPS;
    return large
      ? { kernel: "large", splits: 1 }
      : { kernel: "tile", splits: splits(64, 64, GPU_WORKGROUPS) };
  }
  const lanes = sharingLanes(sharedSubgroup);
  if (lanes === 0 || (lanes === 4 && !groupsOfFour))
    return { kernel: "registers", splits: splits(8, 64, SOFTWARE_WORKGROUPS) };
  if (transposeA || !groupsOfFour) {
    const kernel = groupsOfFour ? "columns" : "strided";
    return { kernel, lanes, splits: splits(32, 4 * lanes, SOFTWARE_WORKGROUPS) };
  }
  // Small tiles for few rows, or when large ones would be too few for the cores.
  const few = m <= 8 || Math.ceil(n / (4 * lanes)) * Math.ceil(m / 32) < SOFTWARE_WORKGROUPS / 4;
  return { kernel: "rows", lanes, rows: few ? 8 : 32 };
}
