import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { itemSetWay } from "./item-set-choice.ts";
import { fusedCrossEntropy } from "./item-set-fused.ts";
import { fusedCrossEntropyGradient } from "./item-set-fused-gradient.ts";
import { extents, itemPanels, panelPitch, panelScores } from "./item-set-panels.ts";
import { product } from "./product.ts";

export { normalizeRows, normalizeRowsGradient } from "./item-set-normalize.ts";
export { type RaggedIds, type RankOptions, rankTargets, type TargetRanks } from "./item-set-rank.ts";
export { MOST_TOP_ITEMS, NO_ITEM, type TopItems, type TopOptions, topItems } from "./item-set-top.ts";

/** Where crossEntropyGradient writes the gradients of a trained item set: dItems [I, d], dBias [I] or null. */
export interface ItemGradients {
  readonly dItems: Tensor;
  readonly dBias: Tensor | null;
  /** Add to what is there instead of overwriting it. */
  readonly accumulate: boolean;
}

/**
 * Cross-entropy of each query's target against the whole item set (Eq. 6 with h and items normalised and scale
 * 1 / tau): losses[b] = lse[b] - logit(b, target[b]), logit(b, i) = scale * h_b . item_i (+ bias_i), lse the natural
 * log-sum-exp over all items. h [B, d]; items [I, d] in f32 or f16; target u32 [B], each below I; bias [I] or null.
 * Returns losses and lse, both [B]. Scratch is bounded: the B x I matrix is never held (item-set-choice.ts says how).
 */
export function crossEntropy(
  step: Step,
  h: Tensor,
  items: Tensor,
  target: Tensor,
  scale: number,
  bias: Tensor | null = null,
): { losses: Tensor; lse: Tensor } {
  if (itemSetWay(step.sharedSubgroup) === "fused")
    return fusedCrossEntropy(step, h, items, target, scale, bias);
  const { queries, count: all } = extents(h, items);
  const panels = itemPanels(items, queries, step.maxBindingBytes);
  const pitch = panelPitch(panels);
  const scores = step.tensor([queries, pitch]);
  const running = step.tensor([queries, 4]);
  const lse = step.tensor([queries]);
  const losses = step.tensor([queries]);
  for (const panel of panels) {
    const { from, to } = panel;
    panelScores(step, h, panel, scores);
    step.run(kernels.item_set_lse, {
      bindings: { panel: scores, bias: bias ?? h, targets: target, running, lse, losses },
      params: { queries, items: to - from, pitch, first: from, last: to === all ? 1 : 0, scale },
      overrides: { BIAS: Boolean(bias) },
      workgroups: gridOf(queries),
      cost: { flops: 5 * queries * (to - from), bytes: 4 * queries * (to - from) },
    });
  }
  step.free(scores);
  step.free(running);
  return { losses, lse };
}

/**
 * The gradient of sum_b dLosses[b] * losses[b] of `crossEntropy` (the same arguments, its lse, and dLosses [B]) with
 * respect to h: returns dh [B, d]; with `into` also dItems and dBias, for tied embeddings. Logits are recomputed
 * piece by piece, in bounded scratch; every sum has a fixed order, so a run repeats bit for bit.
 */
export function crossEntropyGradient(
  step: Step,
  h: Tensor,
  items: Tensor,
  target: Tensor,
  lse: Tensor,
  dLosses: Tensor,
  scale: number,
  bias: Tensor | null = null,
  into: ItemGradients | null = null,
): Tensor {
  if (itemSetWay(step.sharedSubgroup) === "fused")
    return fusedCrossEntropyGradient(step, { h, target, lse, dLosses, scale, bias }, items, into);
  const { queries, width } = extents(h, items);
  const dh = step.tensor([queries, width]);
  // The gradient of f16 items is f32 and cut in the same places.
  const panels = itemPanels(items, queries, step.maxBindingBytes, into ? 4 : undefined);
  const pitch = panelPitch(panels);
  const scores = step.tensor([queries, pitch]);
  for (const panel of panels) {
    const { from, to } = panel;
    const count = to - from;
    panelScores(step, h, panel, scores);
    const chunks = Math.ceil(count / 1024);
    step.run(kernels.item_set_logit_gradient, {
      bindings: { bias: bias ?? h, targets: target, lse, d_losses: dLosses, panel: scores },
      params: { queries, items: count, pitch, first: from, chunks, scale },
      overrides: { BIAS: Boolean(bias) },
      workgroups: gridOf(queries * chunks),
      cost: { flops: 5 * queries * count, bytes: 8 * queries * count },
    });
    const accumulate = from > 0;
    product(step, scores, panel.items, dh, { m: queries, n: width, k: count }, { lda: pitch, accumulate });
    if (into) itemGradients(step, scores, h, { from, to }, 1 / scale, into);
  }
  step.free(scores);
  return dh;
}

/** Gradients of the items [from, to) from their logits' gradient [B, pitch]: dItems (+)= its transpose h. */
function itemGradients(
  step: Step,
  scores: Tensor,
  h: Tensor,
  { from, to }: { readonly from: number; readonly to: number },
  factor: number,
  { dItems, dBias, accumulate }: ItemGradients,
): void {
  const [queries, pitch] = scores.shape;
  const [, width] = dItems.shape;
  const count = to - from;
  const rows = dItems.shape[0] === count ? dItems : dItems.rows(from, to);
  const shape = { m: count, n: width, k: queries };
  product(step, scores, h, rows, shape, { transposeA: true, lda: pitch, accumulate });
  if (!dBias) return;
  step.run(kernels.item_set_bias_gradient, {
    bindings: { panel: scores, d_bias: dBias },
    params: { queries, items: count, pitch, first: from, factor },
    overrides: { ACCUMULATE: accumulate },
    workgroups: [Math.ceil(count / 128)],
    cost: { flops: queries * count, bytes: 4 * queries * count },
  });
}
