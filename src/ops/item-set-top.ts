import { UserError } from "../files/user-error.ts";
import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import { rowBytes, Tensor } from "../gpu/tensor.ts";
import { variantOf } from "../gpu/variant.ts";
import { LIST_LANES, listing } from "../gpu/variants.ts";
import { fillZero } from "./fill.ts";
import { scoreKernel, scoreTile, topGroups } from "./item-set-choice.ts";
import type { RankOptions } from "./item-set-rank.ts";
import { extents, itemWindows } from "./item-set-windows.ts";

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
 * f16; 1 <= k <= 1000. The B x I scores are never written: a kernel keeps the best candidate of every group of 64 or 16
 * items; a second one merges these bests into the list and scores again the groups that got into it. The item set passes in
 * chunks, so that the bests take 16 MiB at most (but for more than 100,000 queries).
 */
export function topItems(
  step: Step,
  h: Tensor,
  items: Tensor,
  k: number,
  { bias = null, seen = null, allowed = null }: TopOptions = {},
): TopItems {
  if (!Number.isInteger(k) || k < 1 || k > MOST_TOP_ITEMS)
    throw new UserError(`a list of ${k} items was asked for; expected 1 to ${MOST_TOP_ITEMS}`);
  const { queries, count: all, width } = extents(h, items);
  const tile = scoreTile(queries, width, step.sharedSubgroup);
  const { tiles, chunk } = topGroups(queries, all, k, tile);
  const limit = Math.min(step.maxBindingBytes, chunk * rowBytes(width, items.dtype));
  const chunks = itemWindows(items, limit).map((window) => {
    const blocks = Math.ceil((window.to - window.from) / (tiles * tile.columns));
    return { ...window, blocks, groups: (blocks * tile.columns) / 4 };
  });
  const best = step.tensor([3, queries, Math.max(...chunks.map(({ groups }) => groups))], "u32");
  const nonFinite = step.tensor([queries], "u32");
  fillZero(step, nonFinite);
  // Keys and ids lie in one buffer, each from a multiple of 256 bytes on.
  const places = queries * k;
  const idsAt = Math.ceil(places / 64) * 64;
  const lists = step.tensor([idsAt + places], "u32");
  const shared = { h, bias: bias ?? h, allowed: allowed ?? h, best };
  // The bits of the kernels' constants BIAS, SEEN and ALLOWED.
  const options = (bias ? 1 : 0) | (seen ? 2 : 0) | (allowed ? 4 : 0);
  for (const { from, to, tensor, blocks, groups } of chunks) {
    const count = to - from;
    const params = { queries, items: count, width, first: from, tiles, groups, options };
    step.run(scoreKernel(tile, items.dtype, kernels.item_set_walk_best, kernels.item_set_rows_best), {
      bindings: { ...shared, weights: tensor, not_finite: nonFinite },
      params,
      workgroups: [Math.ceil(queries / tile.rows), blocks],
      cost: { flops: (2 * width + 3) * queries * count, bytes: tensor.bytes + 4 * queries * width },
    });
    step.run(variantOf(kernels.item_set_list, listing(tile.lanes || LIST_LANES, items.dtype)), {
      bindings: {
        ...shared,
        weights: tensor,
        seen_offsets: seen?.offsets ?? h,
        seen_ids: seen?.ids ?? h,
        lists,
      },
      params: { ...params, k, columns: tile.columns, ids: idsAt, last: to === all ? 1 : 0 },
      workgroups: gridOf(queries),
      cost: { bytes: 8 * queries * groups },
    });
  }
  step.free(best);
  const shape = [queries, k];
  return {
    ids: lists.rows(idsAt, idsAt + places).reshape(shape),
    scores: new Tensor(lists.buffer, lists.offset, shape, "f32", lists.bufferId),
    nonFinite,
  };
}
