import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { rankTargets } from "../ops/item-set.ts";
import type { RankingSide } from "../recommenders/recommender.ts";
import { expectedRank } from "./metrics.ts";
import { uploadLists } from "./ragged.ts";

/** Exact ranks of targets, and whether each is tied with another item. */
export interface Ranks {
  /** Expected rank of each user's target, 1 + higher + equal / 2: a multiple of one half. */
  readonly rank: Float64Array;
  /** 1 where another item has exactly the target's score. */
  readonly tied: Uint8Array;
}

/** One batch to rank: the recorded user and item side, and what the users' targets and excluded items are. */
export interface RankingBatch extends RankingSide {
  readonly targets: Uint32Array<ArrayBuffer>;
  /** Items left out of each user's candidates (each once, never the target), or null. */
  readonly seen: readonly ArrayLike<number>[] | null;
}

/** GPU steps in flight while the host packs the next one. */
const IN_FLIGHT = 2;

/**
 * Ranks `users` targets, `batch` of them to a GPU step; `record` records the representation of users [from, to) and
 * says what to rank. Throws when a score is not finite: a rank among NaNs would mean nothing.
 */
export async function rankBatches(
  gpu: Gpu,
  users: number,
  batch: number,
  record: (step: Step, from: number, to: number) => RankingBatch,
  onDone: (done: number) => void = () => {},
): Promise<Ranks> {
  const rank = new Float64Array(users);
  const tied = new Uint8Array(users);
  let done = 0;
  const rankBatch = async (from: number, to: number): Promise<void> => {
    const step = gpu.step("rank");
    const { h, items, bias, targets, seen } = record(step, from, to);
    const counts = rankTargets(step, h, items, step.upload(targets), {
      bias,
      seen: seen && uploadLists(step, seen),
    });
    const reads = [counts.above, counts.equal, counts.nonFinite].map((count) => step.read(count));
    await step.submit();
    const [above, equal, nonFinite] = await Promise.all(reads);
    for (let row = 0; row < to - from; row++) {
      if (nonFinite[row]) {
        throw new Error(
          `${nonFinite[row]} of the scores of user row ${from + row} are not finite; the training has diverged`,
        );
      }
      rank[from + row] = expectedRank(above[row], equal[row]);
      tied[from + row] = equal[row] > 0 ? 1 : 0;
    }
    done += to - from;
    onDone(done);
  };
  const pending: Promise<void>[] = [];
  try {
    for (let from = 0; from < users; from += batch) {
      const finished = rankBatch(from, Math.min(users, from + batch));
      finished.catch(() => {});
      pending.push(finished);
      if (pending.length >= IN_FLIGHT) await pending.shift();
    }
    await Promise.all(pending);
  } finally {
    await Promise.allSettled(pending);
  }
  return { rank, tied };
}

/**
 * Ranks of the targets of user embeddings h [n, d] (host) among all items [I, d] (GPU), in batches. `seen` lists items
 * to leave out of each user's candidates (never the target). Throws when a score is not finite.
 */
export function rankUsers(
  gpu: Gpu,
  h: Float32Array<ArrayBuffer>,
  items: Tensor,
  targets: ArrayLike<number>,
  options: { readonly seen?: readonly ArrayLike<number>[] | null; readonly batch?: number } = {},
): Promise<Ranks> {
  const [, width] = items.shape;
  return rankBatches(gpu, targets.length, options.batch ?? 512, (step, from, to) => ({
    h: step.upload(h.slice(from * width, to * width), [to - from, width]),
    items,
    bias: null,
    targets: Uint32Array.from({ length: to - from }, (_, row) => targets[from + row]),
    seen: options.seen?.slice(from, to) ?? null,
  }));
}
