import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** What names a dropout mask: the same three numbers give the same mask, on every adapter. */
export interface DropoutKey {
  /** The run's seed, a whole number below 2^53. */
  readonly seed: number;
  /** The training step, below 2^32. */
  readonly step: number;
  /** The place in the model, below 2^32: every dropout of one step needs its own. */
  readonly site: number;
}

/**
 * y = x * keep / (1 - p): every element is dropped with probability p, 0 <= p < 1, the others are scaled so that the
 * expectation stays. The gradient is the same call on dy with the same key. With p = 0 it is a copy.
 */
export function dropout(step: Step, x: Tensor, p: number, key: DropoutKey): Tensor {
  if (!(p >= 0 && p < 1)) throw new Error(`a dropout rate of ${p}; it must be at least 0 and below 1`);
  const count = x.size;
  const y = step.tensor(x.shape);
  step.run(kernels.dropout, {
    bindings: { x, y },
    params: {
      count,
      threshold: Math.min(2 ** 32 - 1, Math.round(p * 2 ** 32)),
      scale: 1 / (1 - p),
      seed_low: key.seed % 2 ** 32,
      seed_high: Math.floor(key.seed / 2 ** 32),
      step: key.step,
      site: key.site,
    },
    workgroups: gridOf(Math.ceil(count / 256)),
    cost: { flops: 30 * count, bytes: 8 * count },
  });
  return y;
}
