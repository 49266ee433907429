import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { type Variant, variantOf } from "../gpu/variant.ts";
import { laneAttention, sharedAttention } from "../gpu/variants.ts";
import {
  checkAttention,
  type HeadShape,
  type Inputs,
  inputParams,
  keyPlan,
  pairs,
  queryPlan,
  type Reading,
} from "./attend-plan.ts";
import type { Strided } from "./strided.ts";

export interface Attended {
  /** [rows, heads x headSize] */
  readonly o: Tensor;
  /** [rows, heads]: natural log of the sum of the exponentials of a row's scores. */
  readonly lse: Tensor;
}

/**
 * How the kernels are laid out for an adapter. `shared`: the twins for software adapters, in which a subgroup shares
 * its loads (see kernels/attention_shared_forward.wgsl); otherwise one lane a row reads for itself.
 */
function layoutOf(step: Step, headSize: number): Variant & { shared: boolean; rows: number } {
  const subgroup = step.sharedSubgroup;
  if (subgroup >= 4) {
    return { ...sharedAttention(subgroup), shared: true, rows: subgroup };
  }
  // Compilers of software adapters unroll every load over the lanes: larger tiles take them minutes.
  return { ...laneAttention(headSize, step.software ? 1 : 4), shared: false, rows: 32 };
}

/** o = softmax(q k^T / sqrt(h)) v: see kernels/attention_forward.wgsl. On tensor cores: ops/attend-matrix.ts. */
export function attend(step: Step, inputs: Inputs, reading: Reading, shape: HeadShape): Attended {
  const { q, k, v } = inputs;
  checkAttention(shape, { q, k, v });
  const { heads, headSize } = shape;
  const o = step.tensor([reading.rows, heads * headSize]);
  const lse = step.tensor([reading.rows, heads]);
  const layout = layoutOf(step, headSize);
  const { plan, blocks } = queryPlan(step, reading, layout.rows);
  const bindings = { q: q.tensor, k: k.tensor, v: v.tensor, plan, o, lse };
  const params = { ...inputParams(inputs, shape), blocks, count: blocks * heads };
  const workgroups = gridOf(blocks * heads);
  const cost = { flops: 4 * headSize * heads * pairs(reading), bytes: 16 * o.size };
  if (layout.shared) {
    const kernel = variantOf(kernels.attention_shared_forward, layout);
    const uniform = { head_size: headSize, causal: Number(reading.causal) };
    step.run(kernel, { bindings, params: { ...params, ...uniform }, workgroups, cost });
  } else {
    const kernel = variantOf(kernels.attention_forward, layout);
    step.run(kernel, { bindings, params, overrides: { CAUSAL: reading.causal }, workgroups, cost });
  }
  return { o, lse };
}

/** The gradients of `attend`, into dq, dk, dv (overwritten): see kernels/attention_{delta,dq,dkv}.wgsl. */
export function attendGradient(
  step: Step,
  dO: Tensor,
  { o, lse }: Attended,
  inputs: Inputs,
  reading: Reading,
  shape: HeadShape,
  into: { dq: Strided; dk: Strided; dv: Strided },
): void {
  const { q, k, v } = inputs;
  checkAttention(shape, { q, k, v, ...into });
  const { heads, headSize } = shape;
  const stats = step.tensor([reading.rows, heads, 2]);
  const count = reading.rows * heads;
  step.run(kernels.attention_delta, {
    bindings: { d_out: dO, o, lse, stats },
    params: { count, head_size: headSize },
    workgroups: gridOf(Math.ceil(count / 64)),
    cost: { flops: 2 * o.size, bytes: 8 * o.size },
  });
  const rows = { q: q.tensor, k: k.tensor, v: v.tensor, d_out: dO, stats };
  queryGradient(step, rows, inputs, reading, shape, into.dq);
  keyValueGradient(step, rows, inputs, reading, shape, into.dk, into.dv);
  step.free(stats);
}

interface Rows {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly d_out: Tensor;
  readonly stats: Tensor;
}

function queryGradient(
  step: Step,
  rows: Rows,
  inputs: Inputs,
  reading: Reading,
  shape: HeadShape,
  dq: Strided,
): void {
  const { heads, headSize } = shape;
  const layout = layoutOf(step, headSize);
  const { plan, blocks } = queryPlan(step, reading, layout.rows);
  const bindings = { ...rows, plan, dq: dq.tensor };
  const params = {
    ...inputParams(inputs, shape),
    blocks,
    count: blocks * heads,
    dq_offset: dq.offset / 4,
    dq_stride: dq.stride / 4,
  };
  const workgroups = gridOf(blocks * heads);
  const width = heads * headSize;
  const cost = { flops: 6 * width * pairs(reading), bytes: 20 * width * reading.rows };
  if (layout.shared) {
    const kernel = variantOf(kernels.attention_shared_dq, layout);
    const uniform = { head_size: headSize, causal: Number(reading.causal) };
    step.run(kernel, { bindings, params: { ...params, ...uniform }, workgroups, cost });
  } else {
    const kernel = variantOf(kernels.attention_dq, layout);
    step.run(kernel, { bindings, params, overrides: { CAUSAL: reading.causal }, workgroups, cost });
  }
}

function keyValueGradient(
  step: Step,
  rows: Rows,
  inputs: Inputs,
  reading: Reading,
  shape: HeadShape,
  dk: Strided,
  dv: Strided,
): void {
  const { heads, keyValueHeads, headSize } = shape;
  const layout = layoutOf(step, headSize);
  const { plan, blocks, ranges } = keyPlan(step, reading, layout.rows);
  // A buffer cannot be bound for writing twice.
  const SHARED = dk.tensor.bufferId === dv.tensor.bufferId;
  const spare = SHARED ? step.tensor([4]) : dv.tensor;
  const bindings = { ...rows, plan, dk: dk.tensor, dv: spare };
  const params = {
    ...inputParams(inputs, shape),
    blocks,
    ranges,
    dk_offset: dk.offset / 4,
    dk_stride: dk.stride / 4,
    dv_offset: dv.offset / 4,
    dv_stride: dv.stride / 4,
  };
  const workgroups = gridOf(blocks * keyValueHeads);
  const width = heads * headSize;
  const cost = { flops: 8 * width * pairs(reading), bytes: 24 * width * reading.rows };
  const causal = reading.causal;
  if (layout.shared) {
    const kernel = variantOf(kernels.attention_shared_dkv, layout);
    const uniform = { head_size_causal: 2 * headSize + Number(causal) };
    step.run(kernel, {
      bindings,
      params: { ...params, ...uniform },
      overrides: { SHARED },
      workgroups,
      cost,
    });
  } else {
    const kernel = variantOf(kernels.attention_dkv, layout);
    const overrides = { CAUSAL: causal, SHARED };
    const all = { ...params, count: blocks * keyValueHeads };
    step.run(kernel, { bindings, params: all, overrides, workgroups, cost });
  }
  if (SHARED) step.free(spare);
}
