import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { adamStep } from "../ops/adam.ts";
import { sumSquares } from "../ops/reduce.ts";
import type { Parameters } from "./parameters.ts";

export interface AdamOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Decoupled decay (AdamW); 0 is plain Adam. */
  readonly weightDecay: number;
  /** Largest joint gradient norm, or null. */
  readonly clip: number | null;
}

/** PyTorch's defaults: what the paper's "Adam" means. */
export const ADAM: AdamOptions = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, clip: null };

/** Adam or AdamW over the flat buffers of a parameter store: one kernel for all parameters. */
export class Adam {
  /** First and second moments, as flat as the parameters. */
  readonly m: Tensor;
  readonly v: Tensor;
  /** Updates done so far; the bias correction depends on it. */
  updates = 0;

  constructor(
    private readonly gpu: Gpu,
    private readonly parameters: Parameters,
    readonly options: AdamOptions,
  ) {
    this.m = gpu.parameter([parameters.flatSize], "f32");
    this.v = gpu.parameter([parameters.flatSize], "f32");
  }

  /** Records one update at this learning rate; returns the squared gradient norm before clipping, a scalar tensor. */
  update(step: Step, learningRate: number): Tensor {
    this.parameters.settleGradients(step);
    const squared = sumSquares(step, this.parameters.gradients);
    this.updates++;
    const { clip, ...options } = this.options;
    const state = {
      parameter: this.parameters.values,
      gradient: this.parameters.gradients,
      m: this.m,
      v: this.v,
    };
    adamStep(
      step,
      state,
      { ...options, lr: learningRate, t: this.updates },
      clip === null ? null : squared,
      clip,
    );
    this.parameters.clearGradients();
    return squared;
  }

  /** Ends the moments. */
  release(): void {
    this.gpu.release(this.m);
    this.gpu.release(this.v);
  }
}
