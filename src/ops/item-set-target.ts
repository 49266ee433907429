import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { withWeights } from "../gpu/variant.ts";
import type { Window } from "./windows.ts";

/**
 * The score of each query's own target, [B]: to the bit what every kernel that makes scores makes of the same rows.
 * `windows` are those of the item set.
 */
export function targetScores(
  step: Step,
  h: Tensor,
  windows: readonly Window[],
  target: Tensor,
  bias: Tensor | null,
): Tensor {
  const [queries] = target.shape;
  const scores = step.tensor([queries]);
  for (const { from, to, tensor } of windows) {
    step.run(withWeights(kernels.item_set_target, tensor.dtype), {
      bindings: { bias: bias ?? h, targets: target, h, weights: tensor, scores },
      params: { queries, items: to - from, width: tensor.shape[1], first_item: from },
      overrides: { BIAS: Boolean(bias) },
      workgroups: [Math.ceil(queries / 64)],
    });
  }
  return scores;
}
