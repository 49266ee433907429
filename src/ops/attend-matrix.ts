/**
 * Attention on tensor cores, forward and backward: kernels/attention_matrix_*.wgsl. For the frozen language model, where
 * `HeadShape.half` allows it: queries, keys, values, probabilities and their gradients are multiplied as f16 and summed in
 * f32; gradients are scaled by powers of two, so that small ones keep their bits.
 */
import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { type Variant, variantOf } from "../gpu/variant.ts";
import { matrixAttention } from "../gpu/variants.ts";
import {
  type HeadShape,
  type Inputs,
  inputParams,
  keyPlan,
  pairs,
  queryPlan,
  type Reading,
} from "./attend-plan.ts";
import type { Strided } from "./strided.ts";

/** The kernels' variant for these heads, and the rows of a workgroup. */
export interface MatrixLayout extends Variant {
  readonly rows: number;
}

/** The layout where tensor cores may and can be used, else null. */
export function matrixLayoutOf(step: Step, { half, headSize }: HeadShape): MatrixLayout | null {
  const matrix = half ? step.subgroupMatrix : null;
  const variant = matrix && matrixAttention(matrix, headSize);
  return variant ? { ...variant, rows: 4 * matrix.rows } : null;
}

/** Writes o and lse of `attend`. */
export function attendOnMatrices(
  step: Step,
  inputs: Inputs,
  reading: Reading,
  shape: HeadShape,
  layout: MatrixLayout,
  { o, lse }: { readonly o: Tensor; readonly lse: Tensor },
): void {
  const { heads, headSize } = shape;
  const { plan, blocks } = queryPlan(step, reading, layout.rows);
  step.run(variantOf(kernels.attention_matrix_forward, layout), {
    bindings: { q: inputs.q.tensor, k: inputs.k.tensor, v: inputs.v.tensor, plan, o, lse },
    params: { ...inputParams(inputs, shape), blocks, count: blocks * heads },
    overrides: { CAUSAL: reading.causal },
    workgroups: gridOf(blocks * heads),
    // The scores are made twice: three products, of which attention needs two.
    cost: { flops: 4 * headSize * heads * pairs(reading), bytes: 16 * o.size },
  });
}

/** `attendGradient` of what `attendOnMatrices` gave. */
export function attendGradientOnMatrices(
  step: Step,
  dO: Tensor,
  { o, lse }: { readonly o: Tensor; readonly lse: Tensor },
  inputs: Inputs,
  reading: Reading,
  shape: HeadShape,
  layout: MatrixLayout,
  { dq, dk, dv }: { readonly dq: Strided; readonly dk: Strided; readonly dv: Strided },
): void {
  const { heads, keyValueHeads, headSize } = shape;
  const stats = step.tensor([reading.rows, heads, 4]);
  const count = reading.rows * heads;
  step.run(kernels.attention_matrix_delta, {
    bindings: { d_out: dO, o, lse, stats },
    params: { count, head_size: headSize },
    workgroups: gridOf(Math.ceil(count / 64)),
    cost: { flops: 3 * o.size, bytes: 8 * o.size },
  });
  const rows = { q: inputs.q.tensor, k: inputs.k.tensor, v: inputs.v.tensor, d_out: dO, stats };
  const width = heads * headSize;
  const overrides = { CAUSAL: reading.causal };
  const byQuery = queryPlan(step, reading, layout.rows);
  step.run(variantOf(kernels.attention_matrix_dq, layout), {
    bindings: { ...rows, plan: byQuery.plan, dq: dq.tensor },
    params: {
      ...inputParams(inputs, shape),
      blocks: byQuery.blocks,
      count: byQuery.blocks * heads,
      dq_offset: dq.offset / 4,
      dq_stride: dq.stride / 4,
    },
    overrides,
    workgroups: gridOf(byQuery.blocks * heads),
    cost: { flops: 6 * width * pairs(reading), bytes: 20 * width * reading.rows },
  });
  const byKey = keyPlan(step, reading, layout.rows);
  // A buffer cannot be bound for writing twice.
  const SHARED = dk.tensor.bufferId === dv.tensor.bufferId;
  const spare = SHARED ? step.tensor([4]) : dv.tensor;
  step.run(variantOf(kernels.attention_matrix_dkv, layout), {
    bindings: { ...rows, plan: byKey.plan, dk: dk.tensor, dv: spare },
    params: {
      ...inputParams(inputs, shape),
      blocks: byKey.blocks,
      count: byKey.blocks * keyValueHeads,
      ranges: byKey.ranges,
      dk_offset: dk.offset / 4,
      dk_stride: dk.stride / 4,
      dv_offset: dv.offset / 4,
      dv_stride: dv.stride / 4,
    },
    overrides: { ...overrides, SHARED },
    workgroups: gridOf(byKey.blocks * keyValueHeads),
    cost: { flops: 8 * width * pairs(reading), bytes: 24 * width * reading.rows },
  });
  if (SHARED) step.free(spare);
  step.free(stats);
}
