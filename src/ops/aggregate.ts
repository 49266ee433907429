import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** The extents of an aggregation, since q arrives flattened to rows. */
export interface AggregateShape {
  /** B. */
  readonly batch: number;
  /** k. */
  readonly active: number;
  /** L, rows of one sequence. */
  readonly rows: number;
  /** d_m. */
  readonly width: number;
}

function check(q: Tensor, gates: Tensor, { batch, active, rows, width }: AggregateShape): void {
  if (q.size !== batch * active * rows * width || gates.size !== batch * active)
    throw new Error(
      `cannot aggregate [${q.shape}] by [${gates.shape}] as ${batch} x ${active} x ${rows} x ${width}`,
    );
}

/**
 * The gate-weighted sum of the active experts' outputs: out[b, l] = sum_j gates[b, j] q[b, j, l]. q has B * k * L rows of
 * d_m, gates [B, k]; returns [B * L, d_m].
 */
export function aggregate(step: Step, q: Tensor, gates: Tensor, shape: AggregateShape): Tensor {
  check(q, gates, shape);
  const { batch, active, rows, width } = shape;
  const out = step.tensor([batch * rows, width]);
  step.run(kernels.aggregate, {
    bindings: { q, gates, sum: out },
    params: { count: out.size, block: rows * width, chosen: active },
    workgroups: gridOf(Math.ceil(out.size / 64)),
    cost: { flops: 2 * q.size, bytes: 4 * (q.size + out.size) },
  });
  return out;
}

/**
 * The gradient of `aggregate`: dq[b, j, l] = gates[b, j] dOut[b, l] and dGates[b, j] = sum over l and d_m of
 * dOut[b, l] * q[b, j, l]. dOut [B * L, d_m]; returns dq [B * k * L, d_m] and dGates [B, k].
 */
export function aggregateGradient(
  step: Step,
  dOut: Tensor,
  q: Tensor,
  gates: Tensor,
  shape: AggregateShape,
): { dq: Tensor; dGates: Tensor } {
  check(q, gates, shape);
  const { batch, active, rows, width } = shape;
  const dq = step.tensor([batch * active * rows, width]);
  const dGates = step.tensor([batch, active]);
  step.run(kernels.aggregate_gradient, {
    bindings: { d_sum: dOut, q, gates, dq, d_gates: dGates },
    params: { sequences: batch * active, block: rows * width, chosen: active },
    workgroups: gridOf(batch * active),
    cost: { flops: 3 * q.size, bytes: 12 * q.size },
  });
  return { dq, dGates };
}
