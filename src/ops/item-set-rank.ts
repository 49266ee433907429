import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { itemSetWay } from "./item-set-choice.ts";
import { fusedRankTargets } from "./item-set-fused-rank.ts";
import { extents, itemPanels, panelPitch, panelScores } from "./item-set-panels.ts";
import { targetScores } from "./item-set-target.ts";

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
 * f32 or f16; target u32 [B]. Identical rows score the same to the bit, so ties are exact. Scratch is bounded: the B x I
 * matrix is never held (item-set-choice.ts says how).
 */
export function rankTargets(
  step: Step,
  h: Tensor,
  items: Tensor,
  target: Tensor,
  options: RankOptions = {},
): TargetRanks {
  const { bias = null, seen = null } = options;
  const { queries } = extents(h, items);
  // The three counts lie in one buffer, each from a multiple of 256 bytes on.
  const countPitch = Math.ceil(queries / 64) * 64;
  const split = (counts: Tensor): TargetRanks => {
    const [above, equal, nonFinite] = [0, 1, 2].map((i) =>
      counts.rows(i * countPitch, i * countPitch + queries),
    );
    return { above, equal, nonFinite };
  };
  if (itemSetWay(step.sharedSubgroup) === "fused") {
    const counts = step.tensor([3 * countPitch], "u32");
    fusedRankTargets(step, h, items, target, options, counts, countPitch);
    return split(counts);
  }
  const panels = itemPanels(items, queries, step.maxBindingBytes);
  const ownScores = targetScores(step, h, panels, target, bias);
  const pitch = panelPitch(panels);
  const scores = step.tensor([queries, pitch]);
  const counts = step.tensor([3 * countPitch], "u32");
  for (const panel of panels) {
    const { from, to } = panel;
    panelScores(step, h, panel, scores);
    step.run(kernels.item_set_rank, {
      bindings: {
        bias: bias ?? h,
        targets: target,
        panel: scores,
        target_scores: ownScores,
        seen_offsets: seen?.offsets ?? target,
        seen_ids: seen?.ids ?? target,
        counts,
      },
      params: { queries, items: to - from, pitch, first: from, count_pitch: countPitch },
      overrides: { BIAS: Boolean(bias), SEEN: Boolean(seen) },
      workgroups: gridOf(queries),
      cost: { bytes: 4 * queries * (to - from) },
    });
  }
  step.free(scores);
  step.free(ownScores);
  return split(counts);
}
