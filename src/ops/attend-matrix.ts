/**
 * Self-attention on tensor cores, forward and backward: kernels/attention_matrix_*.wgsl. For the frozen language model:
 * queries, keys, values, probabilities and their gradients are multiplied as f16 and summed in f32; gradients are scaled by
 * powers of two, so that small ones keep their bits. ops/pack-heads.ts makes what is read.
 */
import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { variantOf } from "../gpu/variant.ts";
import type { Attended } from "./attend.ts";
import { checkAttention, keyPlan, pairs, queryPlan } from "./attend-plan.ts";
import { selfReading } from "./attention.ts";
import type { PackedHeads } from "./pack-heads.ts";
import type { Packed } from "./packed.ts";
import type { Strided } from "./strided.ts";

/** `selfAttention` of packed heads: o [T, H h] and lse [T, H]. */
export function attendHeads(
  step: Step,
  { tensor, shape, layout }: PackedHeads,
  sequences: Packed,
  causal: boolean,
): Attended {
  const { heads, keyValueHeads, headSize } = shape;
  const reading = selfReading(sequences, causal);
  const o = step.tensor([reading.rows, heads * headSize]);
  const lse = step.tensor([reading.rows, heads]);
  const { plan, blocks } = queryPlan(step, reading, layout.rows);
  step.run(variantOf(kernels.attention_matrix_forward, layout), {
    bindings: { packed: tensor, plan, o, lse },
    params: { heads, group: heads / keyValueHeads, blocks, count: blocks * heads },
    overrides: { CAUSAL: causal },
    workgroups: gridOf(blocks * heads),
    // The scores are made twice: three products, of which attention needs two.
    cost: { flops: 4 * headSize * heads * pairs(reading), bytes: 10 * o.size },
  });
  return { o, lse };
}

/**
 * The gradients of `attendHeads` at the queries, keys and values, given dO [T, H h]: overwrites `into`, in f32. Where packing
 * rotated, they are those at the rotated heads.
 */
export function attendHeadsGradient(
  step: Step,
  dO: Tensor,
  { o, lse }: Attended,
  { tensor, shape, layout }: PackedHeads,
  sequences: Packed,
  causal: boolean,
  { dq, dk, dv }: { readonly dq: Strided; readonly dk: Strided; readonly dv: Strided },
): void {
  checkAttention(shape, { dq, dk, dv });
  const { heads, keyValueHeads, headSize } = shape;
  const reading = selfReading(sequences, causal);
  const stats = step.tensor([reading.rows, heads, 4]);
  const count = reading.rows * heads;
  step.run(kernels.attention_matrix_delta, {
    bindings: { d_out: dO, o, lse, stats },
    params: { count, head_size: headSize },
    workgroups: gridOf(Math.ceil(count / 64)),
    cost: { flops: 3 * o.size, bytes: 8 * o.size },
  });
  const rows = { packed: tensor, d_out: dO, stats };
  const width = heads * headSize;
  const heading = { heads, group: heads / keyValueHeads };
  const overrides = { CAUSAL: causal };
  const byQuery = queryPlan(step, reading, layout.rows);
  step.run(variantOf(kernels.attention_matrix_dq, layout), {
    bindings: { ...rows, plan: byQuery.plan, dq: dq.tensor },
    params: {
      ...heading,
      blocks: byQuery.blocks,
      count: byQuery.blocks * heads,
      dq_offset: dq.offset / 4,
      dq_stride: dq.stride / 4,
      scale: 1 / Math.sqrt(headSize),
    },
    overrides,
    workgroups: gridOf(byQuery.blocks * heads),
    cost: { flops: 6 * width * pairs(reading), bytes: 14 * width * reading.rows },
  });
  const byKey = keyPlan(step, reading, layout.rows);
  // A buffer cannot be bound for writing twice.
  const SHARED = dk.tensor.bufferId === dv.tensor.bufferId;
  const spare = SHARED ? step.tensor([4]) : dv.tensor;
  step.run(variantOf(kernels.attention_matrix_dkv, layout), {
    bindings: { ...rows, plan: byKey.plan, dk: dk.tensor, dv: spare },
    params: {
      ...heading,
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
    cost: { flops: 8 * width * pairs(reading), bytes: 18 * width * reading.rows },
  });
  if (SHARED) step.free(spare);
  step.free(stats);
}
