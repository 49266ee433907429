import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { elementGrid } from "./elementwise.ts";
import { inGroups } from "./groups.ts";
import { windowsOf } from "./windows.ts";

/** Parameters with their gradients and moments: tensors of one size in four different buffers. */
export interface AdamState {
  readonly parameter: Tensor;
  readonly gradient: Tensor;
  /** Running means of the gradient and of its square: zero before the first step. */
  readonly m: Tensor;
  readonly v: Tensor;
}

export interface AdamStepOptions {
  readonly lr: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Decoupled from the gradient (AdamW); 0 is plain Adam. */
  readonly weightDecay: number;
  /** Number of this step, from 1 on. */
  readonly t: number;
}

/**
 * One step of Adam in place, see kernels/adam.wgsl. `squaredNorm` [1] is the sum of squares of the whole gradient
 * (sumSquares); with `clip` the gradient is first scaled by min(1, clip / (sqrt(squaredNorm) + 1e-6)). Buffers past the
 * binding limit are taken in windows.
 */
export function adamStep(
  step: Step,
  state: AdamState,
  { lr, beta1, beta2, eps, weightDecay, t }: AdamStepOptions,
  squaredNorm: Tensor | null,
  clip: number | null,
): void {
  if (clip !== null && !squaredNorm) throw new Error("clipping needs the squared norm of the gradient");
  const windows = (tensor: Tensor) => windowsOf(tensor.reshape([tensor.size]), step.maxBindingBytes);
  const [gradient, m, v] = [windows(state.gradient), windows(state.m), windows(state.v)];
  windows(state.parameter).forEach(({ tensor: parameter }, i) => {
    const count = parameter.size;
    const { kernel, group } = inGroups(kernels.adam, count);
    step.run(kernel, {
      bindings: {
        gradient: gradient[i].tensor,
        squared_norm: squaredNorm ?? gradient[i].tensor,
        parameter,
        m: m[i].tensor,
        v: v[i].tensor,
      },
      params: {
        count: count / group,
        beta1,
        rest1: 1 - beta1,
        beta2,
        rest2: 1 - beta2,
        step_size: lr / (1 - beta1 ** t),
        root_scale: 1 / Math.sqrt(1 - beta2 ** t),
        eps,
        decay: 1 - lr * weightDecay,
        clip: clip ?? 0,
      },
      overrides: { CLIP: clip !== null },
      workgroups: elementGrid(count),
      cost: { flops: 15 * count, bytes: 28 * count },
    });
  });
}
