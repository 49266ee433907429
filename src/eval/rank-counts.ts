import type { CountingRecommender } from "../recommenders/popularity.ts";
import { expectedRank } from "./metrics.ts";
import type { Ranks } from "./rank.ts";
import { type RankingCase, seenItems } from "./seen.ts";

const NONE = new Uint32Array(0);

/** Exact expected ranks of the targets under popularity or Markov-1, among all items; milliseconds, on the CPU. */
export function rankByCounts(
  recommender: CountingRecommender,
  cases: readonly RankingCase[],
  options: { readonly excludeSeen: boolean },
): Ranks {
  const rank = new Float64Array(cases.length);
  const tied = new Uint8Array(cases.length);
  cases.forEach((row, u) => {
    const excluded = options.excludeSeen ? seenItems(row) : NONE;
    const { above, equal } = recommender.standing(row.history, row.target, excluded);
    rank[u] = expectedRank(above, equal);
    tied[u] = equal > 0 ? 1 : 0;
  });
  return { rank, tied };
}
