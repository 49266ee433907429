import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Variant } from "../gpu/variant.ts";
import { matrixAttention } from "../gpu/variants.ts";
import { checkAttention, type HeadShape, type Inputs } from "./attend-plan.ts";
import { type Rotation, ropeAngles } from "./rope.ts";

/** How attention on tensor cores is laid out: the kernels' variant for these heads, and the rows of a workgroup. */
export interface HeadLayout extends Variant {
  readonly rows: number;
}

/** The layout, or null where there are no tensor cores, or none that take heads of this size. */
export function headLayoutOf({ subgroupMatrix }: Step, headSize: number): HeadLayout | null {
  const variant = subgroupMatrix && matrixAttention(subgroupMatrix, headSize);
  return variant ? { ...variant, rows: 4 * subgroupMatrix.rows } : null;
}

/** Queries, keys and values as attention on tensor cores reads them. */
export interface PackedHeads {
  /** u32 [T, (H + 2G) h / 2]: f16, rotated, the queries times log2(e) / sqrt(h). */
  readonly tensor: Tensor;
  readonly shape: HeadShape;
  readonly layout: HeadLayout;
}

/** A rotation of heads, and the positions of their rows. */
export interface RotatedBy {
  readonly rotation: Rotation;
  /** u32 [T]. */
  readonly positions: Tensor;
}

/**
 * Rounds the heads of T rows to f16, for attendHeads: kernels/pack_heads.wgsl. Queries and keys are rotated on the way where
 * `rotated` says so. Throws Error for heads and strides that attention does not take. Free the tensor after use.
 */
export function packHeads(
  step: Step,
  inputs: Inputs,
  rows: number,
  shape: HeadShape,
  layout: HeadLayout,
  rotated: RotatedBy | null,
): PackedHeads {
  checkAttention(shape, { ...inputs });
  const { q, k, v } = inputs;
  const { heads, keyValueHeads: groups, headSize } = shape;
  const pairs = rotated ? rotated.rotation.frequencies.length : 0;
  if (2 * pairs > headSize) throw new Error(`heads of ${headSize}, rotating ${2 * pairs}`);
  const all = (heads + 2 * groups) * headSize;
  const tensor = step.tensor([rows, all / 2], "u32");
  step.run(kernels.pack_heads, {
    bindings: {
      q: q.tensor,
      k: k.tensor,
      v: v.tensor,
      angles: rotated ? ropeAngles(step, rotated.positions, rotated.rotation.frequencies) : q.tensor,
      packed: tensor,
    },
    params: {
      rows,
      heads,
      groups,
      head_size: headSize,
      pairs,
      q_offset: q.offset,
      q_stride: q.stride,
      k_offset: k.offset,
      k_stride: k.stride,
      v_offset: v.offset,
      v_stride: v.stride,
      factor: Math.LOG2E / Math.sqrt(headSize),
    },
    overrides: { INTERLEAVED: rotated?.rotation.layout === "interleaved" },
    workgroups: gridOf(Math.ceil((rows * headSize) / 128)),
    cost: { flops: 4 * rows * (heads + groups) * headSize, bytes: 6 * rows * all },
  });
  return { tensor, shape, layout };
}
