import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { withWeights } from "../gpu/variant.ts";
import type { ItemPanel } from "./item-set-panels.ts";

/**
 * The score of each query's own target, [B]: to the bit what every product kernel makes of the same rows. `parts` are the
 * item set cut into ranges that one binding can hold.
 */
export function targetScores(
  step: Step,
  h: Tensor,
  parts: readonly ItemPanel[],
  target: Tensor,
  bias: Tensor | null,
): Tensor {
  const [queries] = target.shape;
  const scores = step.tensor([queries]);
  for (const { from, to, items } of parts) {
    step.run(withWeights(kernels.item_set_target, items.dtype), {
      bindings: { bias: bias ?? h, targets: target, h, weights: items, scores },
      params: { queries, items: to - from, width: items.shape[1], first_item: from },
      overrides: { BIAS: Boolean(bias) },
      workgroups: [Math.ceil(queries / 64)],
    });
  }
  return scores;
}
