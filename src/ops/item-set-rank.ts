import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { withWeights } from "../gpu/variant.ts";
import { fillZero } from "./fill.ts";
import { scoreKernel, scoreTile, walkSlabs } from "./item-set-choice.ts";
import { targetScores } from "./item-set-target.ts";
import { extents, itemWindows } from "./item-set-windows.ts";

/** A list of item ids for each query: those of query b are ids[offsets[b]] .. ids[offsets[b + 1] - 1]. */
export interface RaggedIds {
  /** u32 [B + 1]. */
  readonly offsets: Tensor;
  /** u32, in any order; an id may stand in a list twice. */
  readonly ids: Tensor;
}

export interface RankOptions {
  /** [I], added to the scores. */
  readonly bias?: Tensor | null;
  /** Items left out of the candidates (never the target itself). */
  readonly seen?: RaggedIds | null;
}

/** Each u32 [B]; views of one buffer, freed together. The expected rank of a target is 1 + above + equal / 2. */
export interface TargetRanks {
  /** Candidates that score strictly higher than the target. */
  readonly above: Tensor;
  /** Other candidates that score exactly the same. */
  readonly equal: Tensor;
  /** Items, seen or not, whose score is not finite: with one the rank means nothing. */
  readonly nonFinite: Tensor;
}

/**
 * Where each query's target stands among ALL items by score(b, i) = h_b . item_i (+ bias_i). h [B, d]; items [I, d] in
 * f32 or f16; target u32 [B]. Identical rows score the same to the bit, so ties are exact. The B x I scores are never
 * written: items are counted as their scores are made, and those that a query has seen are scored once more and taken off.
 */
export function rankTargets(
  step: Step,
  h: Tensor,
  items: Tensor,
  target: Tensor,
  options: RankOptions = {},
): TargetRanks {
  const { bias = null, seen = null } = options;
  const { queries, width } = extents(h, items);
  const tile = scoreTile(queries, width, step.sharedSubgroup);
  const windows = itemWindows(items, step.maxBindingBytes);
  const scores = targetScores(step, h, windows, target, bias);
  // The three counts lie in one buffer, each from a multiple of 256 bytes on.
  const countPitch = Math.ceil(queries / 64) * 64;
  const counts = step.tensor([3 * countPitch], "u32");
  fillZero(step, counts);
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
    step.run(scoreKernel(tile, items.dtype, kernels.item_set_walk_rank, kernels.item_set_rows_rank), {
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
  const [above, equal, nonFinite] = [0, 1, 2].map((i) =>
    counts.rows(i * countPitch, i * countPitch + queries),
  );
  return { above, equal, nonFinite };
}
