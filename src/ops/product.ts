import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import { rowBytes, type Tensor } from "../gpu/tensor.ts";
import { variantOf, withWeights } from "../gpu/variant.ts";
import { sharing } from "../gpu/variants.ts";
import { chooseProduct, type ProductChoice } from "./product-choice.ts";
import { productOnMatrices, transposedProductOnMatrices } from "./product-matrix.ts";
import { sumSlabs } from "./slab-sum.ts";

export interface ProductShape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

export interface ProductOptions {
  /** A lies as [K, M]. */
  readonly transposeA?: boolean;
  /** B lies as [N, K]. */
  readonly transposeB?: boolean;
  /** [N]. */
  readonly bias?: Tensor | null;
  /** Of c's shape and strides. */
  readonly residual?: Tensor | null;
  /** Add to what c holds. */
  readonly accumulate?: boolean;
  /** Row lengths in elements, where they differ from the matrices' widths (ldb: f32 and f16 only). */
  readonly lda?: number;
  readonly ldb?: number;
  readonly ldc?: number;
  /** First element of A and of C (and residual) inside their tensors. */
  readonly aOffset?: number;
  readonly cOffset?: number;
  /** Operands in f32 may be rounded to f16, as tensor cores multiply them. */
  readonly half?: boolean;
  /** The kernel, where not product-choice.ts should say it: for tests and benchmarks of one version. */
  readonly choice?: ProductChoice;
}

/** Kernels that take anything, and the rows and columns of their tiles. */
const TILED = {
  tile: [kernels.product, 64, 64],
  large: [kernels.product_large, 128, 128],
  registers: [kernels.product_registers, 8, 64],
} as const;

/**
 * C [M, N] = A [M, K] B [K, N] (+ bias) (+ residual) (+ C): records the kernel of product-choice.ts. A, C in f32, B in
 * any storage of weights (f32 with A^T). C must not share its buffer with the operands.
 */
export function product(
  step: Step,
  a: Tensor,
  b: Tensor,
  c: Tensor,
  { m, n, k }: ProductShape,
  options: ProductOptions,
): void {
  const {
    transposeA = false,
    transposeB = false,
    bias = null,
    residual = null,
    accumulate = false,
  } = options;
  if (transposeA && (transposeB || bias || residual || b.dtype !== "f32"))
    throw new Error(
      "product: A^T B, a weight gradient, takes neither B^T nor bias nor residual, and B in f32",
    );
  const lda = options.lda ?? (transposeA ? m : k);
  const ldb = options.ldb ?? (transposeB ? k : n);
  const ldc = options.ldc ?? n;
  const aOffset = options.aOffset ?? 0;
  const cOffset = options.cOffset ?? 0;
  const grouped = [n, lda, ldb, ldc, aOffset, cOffset, transposeA ? m : k];
  const choice =
    options.choice ??
    chooseProduct(
      {
        m,
        n,
        k,
        transposeA,
        groupsOfFour: grouped.every((extent) => extent % 4 === 0),
        stored: b.dtype,
        half: options.half,
      },
      step,
    );
  const shape = { m, n, k, lda, ldb, ldc, a_offset: aOffset };
  const cost = {
    flops: 2 * m * n * k,
    bytes: 4 * (m * k + m * n) + (transposeB ? n * rowBytes(k, b.dtype) : k * rowBytes(n, b.dtype)),
  };
  // The bits of the kernels' constants BIAS, RESIDUAL and ACCUMULATE.
  const added = (bias ? 1 : 0) | (residual ? 2 : 0);
  const epilogue = { bias: bias ?? a, residual: residual ?? a };
  if (choice.kernel === "matrix" && transposeA) {
    const layout = { lda, aOffset, ldb, ldc, cOffset };
    transposedProductOnMatrices(step, a, b, c, { m, n, k }, layout, choice, accumulate);
    return;
  }
  if (choice.kernel === "matrix") {
    const source = { form: "plain", a, lda, offset: aOffset } as const;
    const layout = { ldb, ldc, cOffset, transposeB };
    const epilogue = { bias, residual, accumulate };
    productOnMatrices(step, source, b, c, { m, n, k }, layout, choice.matrix, epilogue);
    return;
  }
  if (choice.kernel === "rows") {
    const { lanes, rows } = choice;
    step.run(variantOf(kernels.product_rows, sharing(lanes, rows, b.dtype)), {
      bindings: { a, weights: b, ...epilogue, c },
      params: { ...shape, c_offset: cOffset, rows, added: added | (accumulate ? 4 : 0) },
      overrides: { TRANSPOSE_B: transposeB },
      workgroups: [Math.ceil(n / (4 * lanes)), Math.ceil(m / rows)],
      cost,
    });
    return;
  }
  // A split reduction writes its parts beside each other; product_sum adds them, in order, to C.
  const splits = ldc === n && cOffset === 0 ? choice.splits : 1;
  const depth = Math.ceil(k / splits);
  const out = splits === 1 ? c : step.tensor([splits, m, n]);
  const accumulateHere = accumulate && splits === 1;
  const params = { ...shape, c_offset: cOffset, depth, split_stride: m * n };
  if (choice.kernel === "columns") {
    step.run(kernels.product_columns, {
      bindings: { a, b, c: out },
      params: { ...params, accumulate: Number(accumulateHere) },
      overrides: { LANES: choice.lanes },
      workgroups: [Math.ceil(n / (4 * choice.lanes)), Math.ceil(m / 32), splits],
      cost,
    });
  } else if (choice.kernel === "strided") {
    step.run(withWeights(kernels.product_strided, b.dtype), {
      bindings: { a, weights: b, ...epilogue, c: out },
      params: {
        m,
        n,
        k,
        a_row: transposeA ? 1 : lda,
        a_step: transposeA ? lda : 1,
        ldb,
        b_transposed: Number(transposeB),
        ldc,
        a_offset: aOffset,
        c_offset: cOffset,
        depth,
        split_stride: m * n,
        added: added | (accumulateHere ? 4 : 0),
      },
      overrides: { LANES: choice.lanes },
      workgroups: [Math.ceil(n / (4 * choice.lanes)), Math.ceil(m / 32), splits],
      cost,
    });
  } else {
    const [kernel, rows, columns] = TILED[choice.kernel];
    step.run(withWeights(kernel, b.dtype), {
      bindings: { a, weights: b, ...epilogue, c: out },
      params: { ...params, added: added | (accumulateHere ? 4 : 0) },
      overrides: { TRANSPOSE_A: transposeA, TRANSPOSE_B: transposeB },
      workgroups: [Math.ceil(n / columns), Math.ceil(m / rows), splits],
      cost,
    });
  }
  if (out === c) return;
  sumSlabs(step, out, c, accumulate);
  step.free(out);
}
