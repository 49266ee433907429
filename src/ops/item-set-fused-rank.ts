import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { variantOf, withWeights } from "../gpu/variant.ts";
import { tiled } from "../gpu/variants.ts";
import { walkSlabs, walkTile } from "./item-set-choice.ts";
import { itemWindows } from "./item-set-fused.ts";
import { extents } from "./item-set-panels.ts";
import type { RankOptions } from "./item-set-rank.ts";
import { targetScores } from "./item-set-target.ts";

/**
 * The counts of `rankTargets` (ops/item-set-rank.ts) without panels: the items are counted as their scores are made, and
 * those that a query has seen are scored once more and taken off. counts u32 [3 * countPitch].
 */
export function fusedRankTargets(
  step: Step,
  h: Tensor,
  items: Tensor,
  target: Tensor,
  { bias = null, seen = null }: RankOptions,
  counts: Tensor,
  countPitch: number,
): void {
  const { queries, width } = extents(h, items);
  const tile = walkTile(queries);
  const windows = itemWindows(items, step.maxBindingBytes);
  const scores = targetScores(
    step,
    h,
    windows.map(({ from, to, tensor }) => ({ from, to, items: tensor })),
    target,
    bias,
  );
  zero(step, counts);
  const shared = { h, bias: bias ?? h, targets: target, target_scores: scores, counts };
  for (const { from, to, tensor } of windows) {
    const count = to - from;
    const { slabs, slab } = walkSlabs(queries, count, tile);
    const params = {
      queries,
      items: count,
      width,
      first: from,
      count_pitch: countPitch,
      biased: bias ? 1 : 0,
    };
    step.run(variantOf(kernels.item_set_walk_rank, tiled(tile, items.dtype)), {
      bindings: { ...shared, weights: tensor },
      params: { ...params, slab },
      workgroups: [Math.ceil(queries / tile.rows), slabs],
      cost: { flops: (2 * width + 3) * queries * count, bytes: tensor.bytes + 4 * queries * width },
    });
    if (!seen) continue;
    step.run(withWeights(kernels.item_set_rank_seen, items.dtype), {
      bindings: { ...shared, weights: tensor, seen_offsets: seen.offsets, seen_ids: seen.ids },
      params,
      workgroups: gridOf(queries),
      cost: { flops: 2 * width * seen.ids.size, bytes: 4 * width * seen.ids.size },
    });
  }
  step.free(scores);
}

/** Writes zeros; unlike Step.zero within the compute pass. */
export function zero(step: Step, y: Tensor): void {
  step.run(kernels.fill, {
    bindings: { y },
    params: { count: y.size, value: 0 },
    workgroups: gridOf(Math.ceil(y.size / 256)),
  });
}
