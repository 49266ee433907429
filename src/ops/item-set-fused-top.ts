import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import { rowBytes, Tensor } from "../gpu/tensor.ts";
import { variantOf, withWeights } from "../gpu/variant.ts";
import { tiled } from "../gpu/variants.ts";
import { topGroups, walkTile } from "./item-set-choice.ts";
import { itemWindows } from "./item-set-fused.ts";
import { zero } from "./item-set-fused-rank.ts";
import { extents } from "./item-set-panels.ts";
import type { TopItems, TopOptions } from "./item-set-top.ts";

/**
 * `topItems` (ops/item-set-top.ts) without panels. A kernel keeps the best candidate of every group of 64 or 16 items; a
 * second one merges these bests into the list and scores again the groups that got into it. The item set passes in
 * chunks, so that the bests take 16 MiB at most (but for more than 100,000 queries).
 */
export function fusedTopItems(
  step: Step,
  h: Tensor,
  items: Tensor,
  k: number,
  { bias = null, seen = null, allowed = null }: TopOptions,
): TopItems {
  const { queries, count: all, width } = extents(h, items);
  const tile = walkTile(queries);
  const { tiles, chunk } = topGroups(queries, all, k, tile);
  const limit = Math.min(step.maxBindingBytes, chunk * rowBytes(width, items.dtype));
  const chunks = itemWindows(items, limit).map((window) => {
    const blocks = Math.ceil((window.to - window.from) / (tiles * tile.columns));
    return { ...window, blocks, groups: (blocks * tile.columns) / 4 };
  });
  const best = step.tensor([queries, Math.max(...chunks.map(({ groups }) => groups)), 2], "u32");
  const nonFinite = step.tensor([queries], "u32");
  zero(step, nonFinite);
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
    step.run(variantOf(kernels.item_set_walk_best, tiled(tile, items.dtype)), {
      bindings: { ...shared, weights: tensor, not_finite: nonFinite },
      params,
      workgroups: [Math.ceil(queries / tile.rows), blocks],
      cost: { flops: (2 * width + 3) * queries * count, bytes: tensor.bytes + 4 * queries * width },
    });
    step.run(withWeights(kernels.item_set_list, items.dtype), {
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
