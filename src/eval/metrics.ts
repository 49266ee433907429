/**
 * Ranking metrics of one relevant item among all items, from its exact (expected) rank r = 1 + items scoring higher +
 * items scoring equal / 2.
 */

/** Cut-offs of the report. */
export const CUTOFFS = [5, 10, 20] as const;

/** Recall@N (= hit rate, one target): 1 when the target is among the first N. */
export function recall(rank: number, cutoff: number): number {
  return rank <= cutoff ? 1 : 0;
}

/** NDCG@N with one target: 1 / log2(r + 1) inside the cut-off. */
export function ndcg(rank: number, cutoff: number): number {
  return rank <= cutoff ? 1 / Math.log2(rank + 1) : 0;
}

/** Reciprocal rank, uncut. */
export function reciprocalRank(rank: number): number {
  return 1 / rank;
}

/** The expected rank of a target under ties. */
export function expectedRank(above: number, equal: number): number {
  return 1 + above + equal / 2;
}

/** The mean of a per-user metric; 0 for no users. */
export function mean(ranks: ArrayLike<number>, metric: (rank: number) => number): number {
  let sum = 0;
  for (let u = 0; u < ranks.length; u++) sum += metric(ranks[u]);
  return ranks.length ? sum / ranks.length : 0;
}
