import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { embed } from "./embedding.ts";

/**
 * The query vectors of the active experts: q[s] = experts[top[s]]. experts [K, L, d_m], top u32 [S] on the GPU (any
 * shape with S elements); returns [S * L, d_m].
 */
export function selectExperts(step: Step, experts: Tensor, top: Tensor): Tensor {
  const [count, length, width] = experts.shape;
  const rows = embed(step, experts.reshape([count, length * width]), top.reshape([top.size]));
  return rows.reshape([top.size * length, width]);
}

/** dExperts (+)= the sum over the sequences that used each expert. dq [S * L, d_m], dExperts [K, L, d_m]. */
export function selectExpertsGradient(
  step: Step,
  dq: Tensor,
  top: Tensor,
  dExperts: Tensor,
  accumulate: boolean,
): void {
  const [count, length, rowWidth] = dExperts.shape;
  const width = length * rowWidth;
  step.run(kernels.experts_gradient, {
    bindings: { dq, top, d_experts: dExperts },
    params: { sequences: top.size, width },
    overrides: { ACCUMULATE: accumulate },
    workgroups: [Math.ceil(width / 64), count],
    cost: { flops: dq.size, bytes: 4 * (dq.size + dExperts.size) },
  });
}
