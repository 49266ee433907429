import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { RopeLayout } from "./rope.ts";

/** Elements that product_matrix.wgsl takes along K at a time: rows are packed to multiples of it. */
export const PACKED_STEP = 32;

/** The constants FORM of pack_rows.wgsl. */
const FORMS = {
  plain: 0,
  rmsNorm: 1,
  layerNorm: 2,
  swiglu: 3,
  gelu: 4,
  swigluGradient: 5,
  geluGradient: 6,
  turnedBack: 7,
} as const;

/**
 * The rows [R, width] of a product's left operand, as what makes them: numbers that lie in memory, or the layer before
 * the product, which then writes nothing.
 */
export type RowSource =
  /** Rows `lda` elements apart, from element `offset` on. */
  | { readonly form: "plain"; readonly a: Tensor; readonly lda: number; readonly offset: number }
  /** Of a [R, width]; rstd [R] is written. */
  | {
      readonly form: "rmsNorm";
      readonly a: Tensor;
      readonly weight: Tensor;
      readonly eps: number;
      readonly rstd: Tensor;
    }
  /** Of a [R, width]; mean and rstd [R] are written. */
  | {
      readonly form: "layerNorm";
      readonly a: Tensor;
      readonly weight: Tensor;
      readonly bias: Tensor;
      readonly eps: number;
      readonly mean: Tensor;
      readonly rstd: Tensor;
    }
  /** Of a [R, 2 width], gate | up; or of a [R, width], with tanh. */
  | { readonly form: "swiglu" | "gelu"; readonly a: Tensor }
  /** At a [R, width], given the gradient at the activation's result [R, width / 2 or width]. */
  | { readonly form: "swigluGradient" | "geluGradient"; readonly a: Tensor; readonly gradient: Tensor }
  /** a [R, width] with the heads of its first `turnedWidth` elements rotated back by `angles` (ropeAngles): the gradient of rope. */
  | {
      readonly form: "turnedBack";
      readonly a: Tensor;
      readonly angles: Tensor;
      readonly layout: RopeLayout;
      readonly headSize: number;
      readonly turnedWidth: number;
    };

/** Rows as f16 for tensor cores. */
export interface PackedRows {
  /** u32 [rows, words], two f16 to a word, words a multiple of 16; zero past the width. */
  readonly packed: Tensor;
  /** f32 [rows]: the power of two that a row was divided by. */
  readonly scales: Tensor;
}

/** Packs the rows [first, first + rows) of a source [R, width]. Free both tensors after use. */
export function packRows(
  step: Step,
  source: RowSource,
  { first, rows, width }: { readonly first: number; readonly rows: number; readonly width: number },
): PackedRows {
  const { a, form } = source;
  const words = (Math.ceil(width / PACKED_STEP) * PACKED_STEP) / 2;
  const packed = step.tensor([rows, words], "u32");
  const scales = step.tensor([rows]);
  const plain = form === "plain";
  const normed = form === "rmsNorm" || form === "layerNorm";
  const lda = plain ? source.lda : form === "swiglu" ? 2 * width : width;
  let b = a;
  if (normed) b = source.weight;
  if (form === "swigluGradient" || form === "geluGradient") b = source.gradient;
  if (form === "turnedBack") b = source.angles;
  // A binding that is written needs a buffer of its own, also where nothing is.
  const unused: Tensor[] = [];
  const nowhere = () => {
    const tensor = step.tensor([1]);
    unused.push(tensor);
    return tensor;
  };
  step.run(kernels.pack_rows, {
    bindings: {
      a,
      b,
      bias: form === "layerNorm" ? source.bias : a,
      packed,
      scales,
      mean: form === "layerNorm" ? source.mean : nowhere(),
      rstd: normed ? source.rstd : nowhere(),
    },
    params: {
      width,
      lda,
      a_offset: (plain ? source.offset : 0) + first * lda,
      words,
      rows,
      first,
      eps: normed ? source.eps : 0,
      ...(form === "turnedBack"
        ? { turned_width: source.turnedWidth, head_size: source.headSize, pairs: source.angles.shape[1] }
        : { turned_width: 0, head_size: 0, pairs: 0 }),
    },
    overrides: { FORM: FORMS[form], INTERLEAVED: form === "turnedBack" && source.layout === "interleaved" },
    workgroups: gridOf(rows),
    cost: { flops: rows * width, bytes: rows * (4 * lda + 4 * words) },
  });
  for (const tensor of unused) step.free(tensor);
  return { packed, scales };
}
