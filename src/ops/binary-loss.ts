import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { rowGrid } from "./row-grid.ts";

/**
 * Binary cross-entropy of a true and a false item of every row (Kang and McAuley 2018, section 3.5):
 * losses[t] = -log sigmoid(h_t . true_t) - log(1 - sigmoid(h_t . false_t)). h [T, D]; pair [2 T, D] holds the true
 * items' rows, then the false ones'. Returns losses [T], and for the gradient slopes [T, 2] by the two scores.
 */
export function binaryLoss(step: Step, h: Tensor, pair: Tensor): { losses: Tensor; slopes: Tensor } {
  const [rows, width] = h.shape;
  if (pair.size !== 2 * h.size) throw new Error(`binary loss of [${h.shape}] against [${pair.shape}]`);
  const { lanes } = rowGrid(rows, width).params;
  const losses = step.tensor([rows]);
  const slopes = step.tensor([rows, 2]);
  step.run(kernels.binary_loss, {
    bindings: { h, pair, losses, slopes },
    params: { rows, width, lanes },
    workgroups: gridOf(Math.ceil((rows * lanes) / 64)),
    cost: { flops: 4 * h.size, bytes: 12 * h.size },
  });
  return { losses, slopes };
}

/** The gradients of factor * sum of the losses of `binaryLoss`, from its arguments and slopes: dh [T, D], dPair [2 T, D]. */
export function binaryLossGradient(
  step: Step,
  h: Tensor,
  pair: Tensor,
  slopes: Tensor,
  factor: number,
): { dh: Tensor; dPair: Tensor } {
  const [rows, width] = h.shape;
  const grid = rowGrid(rows, width);
  const dh = step.tensor([rows, width]);
  const dPair = step.tensor([2 * rows, width]);
  step.run(kernels.binary_loss_gradient, {
    bindings: { h, pair, slopes, dh, d_pair: dPair },
    params: { rows, width, factor, ...grid.params },
    workgroups: grid.workgroups,
    cost: { flops: 5 * h.size, bytes: 24 * h.size },
  });
  return { dh, dPair };
}
