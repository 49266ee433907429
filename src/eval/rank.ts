import type { Gpu } from "../gpu/device.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { rankTargets } from "../ops/item-set.ts";
import { expectedRank } from "./metrics.ts";

/** Exact ranks of targets, and whether each is tied with another item. */
export interface Ranks {
  readonly rank: Float64Array;
  readonly tied: Uint8Array;
}

/**
 * Ranks of the targets of user embeddings h [n, d] (host) among all items [I, d] (GPU), in batches. `seen` lists items
 * to leave out of each user's candidates (never the target). Throws when a score is not finite.
 */
export async function rankUsers(
  gpu: Gpu,
  h: Float32Array<ArrayBuffer>,
  items: Tensor,
  targets: ArrayLike<number>,
  options: { readonly seen?: readonly ArrayLike<number>[] | null; readonly batch?: number } = {},
): Promise<Ranks> {
  const [, width] = items.shape;
  const users = targets.length;
  const batch = options.batch ?? 512;
  const rank = new Float64Array(users);
  const tied = new Uint8Array(users);
  for (let from = 0; from < users; from += batch) {
    const to = Math.min(users, from + batch);
    const step = gpu.step("rank");
    const rows = step.upload(h.slice(from * width, to * width), [to - from, width]);
    const target = step.upload(Uint32Array.from({ length: to - from }, (_, u) => targets[from + u]));
    const counts = rankTargets(step, rows, items, target, { bias: null, seen: options.seen?.slice(from, to) ?? null });
    const [above, equal, bad] = [step.read(counts.above), step.read(counts.equal), step.read(counts.nonFinite)];
    await step.submit();
    const [aboveCounts, equalCounts, badCounts] = await Promise.all([above, equal, bad]);
    for (let u = 0; u < to - from; u++) {
      if (badCounts[u]) throw new Error(`user row ${from + u} has ${badCounts[u]} scores that are not finite`);
      rank[from + u] = expectedRank(aboveCounts[u], equalCounts[u]);
      tied[from + u] = equalCounts[u] > 0 ? 1 : 0;
    }
  }
  return { rank, tied };
}
