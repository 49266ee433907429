import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { variantOf } from "../gpu/variant.ts";
import { tiled } from "../gpu/variants.ts";
import { walkSlabs, walkTile } from "./item-set-choice.ts";
import { extents } from "./item-set-panels.ts";
import { type Window, windowsOf } from "./windows.ts";

/** Windows of the item set begin at multiples of this many items: aligned addresses in f32 and f16, for every width. */
const WINDOW_UNIT = 128;

/** The item set in windows of at most `limit` bytes, in the order of the items. */
export function itemWindows(items: Tensor, limit: number): Window[] {
  return windowsOf(items, limit, WINDOW_UNIT);
}

/**
 * `crossEntropy` of ops/item-set.ts without panels: a kernel walks slabs of the item set in tiles and keeps a log-sum-exp
 * a slab; a second one adds the slabs up. Scratch: two numbers for each query and slab.
 */
export function fusedCrossEntropy(
  step: Step,
  h: Tensor,
  items: Tensor,
  target: Tensor,
  scale: number,
  bias: Tensor | null,
): { losses: Tensor; lse: Tensor } {
  const { queries, width } = extents(h, items);
  const tile = walkTile(queries);
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
    step.run(variantOf(kernels.item_set_walk_lse, tiled(tile, items.dtype)), {
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
