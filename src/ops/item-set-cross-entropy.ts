import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { scoreKernel, scoreTile, walkSlabs } from "./item-set-choice.ts";
import { extents, itemWindows } from "./item-set-windows.ts";

/**
 * Cross-entropy of each query's target against the whole item set (Eq. 6 with h and items normalised and scale
 * 1 / tau): losses[b] = lse[b] - logit(b, target[b]), logit(b, i) = scale * h_b . item_i (+ bias_i), lse the natural
 * log-sum-exp over all items. h [B, d]; items [I, d] in f32 or f16; target u32 [B], each below I; bias [I] or null.
 * Returns losses and lse, both [B]. The B x I scores are never written: a kernel walks slabs of the item set in tiles and
 * keeps a log-sum-exp a slab; a second one adds the slabs up. Scratch: two numbers for each query and slab.
 */
export function crossEntropy(
  step: Step,
  h: Tensor,
  items: Tensor,
  target: Tensor,
  scale: number,
  bias: Tensor | null = null,
): { losses: Tensor; lse: Tensor } {
  const { queries, width } = extents(h, items);
  const tile = scoreTile(queries, width, step.sharedSubgroup);
  let slabs = 0;
  const parts = itemWindows(items, step.maxBindingBytes).map(({ from, to, tensor }) => {
    const cut = walkSlabs(queries, to - from, tile);
    const firstSlab = slabs;
    slabs += cut.slabs;
    return { from, count: to - from, rows: tensor, firstSlab, ...cut };
  });
  const partials = step.tensor([slabs, queries, 2]);
  const targetLogits = step.tensor([queries]);
  const lse = step.tensor([queries]);
  const losses = step.tensor([queries]);
  for (const { from, count, rows, firstSlab, slab, slabs: here } of parts) {
    step.run(scoreKernel(tile, items.dtype, kernels.item_set_walk_lse, kernels.item_set_rows_lse), {
      bindings: { h, weights: rows, bias: bias ?? h, targets: target, partials, target_logits: targetLogits },
      params: {
        queries,
        items: count,
        width,
        first: from,
        slab,
        first_slab: firstSlab,
        biased: bias ? 1 : 0,
        scale,
      },
      workgroups: [Math.ceil(queries / tile.rows), here],
      cost: { flops: (2 * width + 5) * queries * count, bytes: rows.bytes + 4 * queries * width },
    });
  }
  step.run(kernels.item_set_merge_lse, {
    bindings: { partials, target_logits: targetLogits, lse, losses },
    params: { queries, slabs },
    workgroups: gridOf(queries),
    cost: { flops: 4 * slabs * queries, bytes: 8 * slabs * queries },
  });
  step.free(partials);
  step.free(targetLogits);
  return { losses, lse };
}
