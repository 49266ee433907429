import { type CountingRecommender, checkItem, Popularity, type Standing } from "./popularity.ts";

/**
 * First-order Markov chain: an item's score is how often it followed the history's last item in the training
 * sequences, plus its popularity scaled below one count, so that popularity decides among equal counts only. Scores
 * are compared as pairs (count, popularity) of whole numbers; no rounding can make or break a tie. An empty history
 * ranks by popularity.
 */
export class Markov implements CountingRecommender {
  readonly popularity: Popularity;
  /** For each item, what followed it, and how often. Items that nothing followed have no entry. */
  private readonly followers = new Map<number, Map<number, number>>();

  constructor(
    sequences: readonly ArrayLike<number>[],
    readonly itemCount: number,
  ) {
    this.popularity = new Popularity(sequences, itemCount);
    for (const sequence of sequences) {
      for (let n = 1; n < sequence.length; n++) {
        let row = this.followers.get(sequence[n - 1]);
        if (!row) {
          row = new Map();
          this.followers.set(sequence[n - 1], row);
        }
        row.set(sequence[n], (row.get(sequence[n]) ?? 0) + 1);
      }
    }
  }

  standing(history: ArrayLike<number>, target: number, excluded: ArrayLike<number>): Standing {
    const { counts } = this.popularity;
    const row = this.followers.get(history.length ? history[history.length - 1] : -1);
    const ownPopularity = counts[checkItem(target, this.itemCount)];
    const own = row?.get(target) ?? 0;
    // Among the items that never followed the last one (score: popularity alone) ...
    let { above, equal } =
      own > 0 ? { above: 0, equal: 0 } : this.popularity.standing(history, target, excluded);
    if (!row) return { above, equal };
    const compare = (item: number, count: number): number =>
      count - own || Math.sign(counts[item] - ownPopularity);
    const left = new Set<number>();
    for (let n = 0; n < excluded.length; n++) left.add(checkItem(excluded[n], this.itemCount));
    for (const [item, count] of row) {
      if (item === target || left.has(item)) continue;
      // ... and those that did, which popularity alone would have placed elsewhere.
      if (own === 0) {
        if (counts[item] > ownPopularity) above--;
        else if (counts[item] === ownPopularity) equal--;
      }
      const order = compare(item, count);
      if (order > 0) above++;
      else if (order === 0) equal++;
    }
    return { above, equal };
  }
}
