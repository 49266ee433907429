import { UserError } from "../files/user-error.ts";
import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { itemSetWay } from "./item-set-choice.ts";
import { fusedTopItems } from "./item-set-fused-top.ts";
import { extents, itemPanels, panelPitch, panelScores } from "./item-set-panels.ts";
import type { RankOptions } from "./item-set-rank.ts";

/** The longest list that `topItems` makes. */
export const MOST_TOP_ITEMS = 1000;

/** The id in the empty places of a list, when there are fewer candidates than places. */
export const NO_ITEM = 0xffffffff;

export interface TopOptions extends RankOptions {
  /** u32 [ceil(I / 32)]: bit i % 32 of word i / 32 says whether item i is a candidate. */
  readonly allowed?: Tensor | null;
}

/** `ids` and `scores` may be views of one buffer: free both or none. */
export interface TopItems {
  /** u32 [B, k], the best first, ties to the lower id; NO_ITEM in empty places. */
  readonly ids: Tensor;
  /** [B, k]; minus infinity in empty places. */
  readonly scores: Tensor;
  /** u32 [B]: items, candidates or not, whose score is not finite; they are in no list. */
  readonly nonFinite: Tensor;
}

/**
 * The k best items of each query by score(b, i) = h_b . item_i (+ bias_i), exactly. h [B, d]; items [I, d] in f32 or
 * f16; 1 <= k <= 1000. Scratch is bounded: the B x I matrix is never held (item-set-choice.ts says how).
 */
export function topItems(
  step: Step,
  h: Tensor,
  items: Tensor,
  k: number,
  options: TopOptions = {},
): TopItems {
  if (!Number.isInteger(k) || k < 1 || k > MOST_TOP_ITEMS)
    throw new UserError(`a list of ${k} items was asked for; expected 1 to ${MOST_TOP_ITEMS}`);
  if (itemSetWay(step.sharedSubgroup) === "fused") return fusedTopItems(step, h, items, k, options);
  const { bias = null, seen = null, allowed = null } = options;
  const { queries, count: all } = extents(h, items);
  const panels = itemPanels(items, queries, step.maxBindingBytes);
  const pitch = panelPitch(panels);
  const scores = step.tensor([queries, pitch]);
  const nonFinite = step.tensor([queries], "u32");
  const listIds = step.tensor([queries, k], "u32");
  const listScores = step.tensor([queries, k]);
  for (const panel of panels) {
    const { from, to } = panel;
    panelScores(step, h, panel, scores);
    step.run(kernels.item_set_top, {
      bindings: {
        scores,
        bias: bias ?? h,
        allowed: allowed ?? h,
        seen_offsets: seen?.offsets ?? h,
        seen_ids: seen?.ids ?? h,
        list_keys: listScores,
        list_ids: listIds,
        not_finite: nonFinite,
      },
      params: { queries, items: to - from, pitch, k, first: from, last: to === all ? 1 : 0 },
      overrides: { BIAS: Boolean(bias), SEEN: Boolean(seen), ALLOWED: Boolean(allowed) },
      workgroups: gridOf(queries),
      cost: { bytes: 4 * queries * (to - from) },
    });
  }
  step.free(scores);
  return { ids: listIds, scores: listScores, nonFinite };
}
