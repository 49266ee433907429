/** How many items other than the target score higher than it, and exactly the same. */
export interface Standing {
  readonly above: number;
  readonly equal: number;
}

/** A recommender whose scores are counts: it ranks exactly, on the CPU, without scoring every item. */
export interface CountingRecommender {
  readonly itemCount: number;
  /**
   * Where the target stands among all items for a history (oldest item first), less those of `excluded`: distinct
   * item indexes without the target. Throws for a target or an excluded item out of range.
   */
  standing(history: ArrayLike<number>, target: number, excluded: ArrayLike<number>): Standing;
}

/** The same ranking for everyone: an item's score is how often it occurs in the training sequences. */
export class Popularity implements CountingRecommender {
  /** Training interactions of each item [I]. */
  readonly counts: Uint32Array;
  /** Items with more than n interactions, at n; items with exactly n, at n. */
  private readonly itemsAbove: Uint32Array;
  private readonly itemsAt: Uint32Array;

  /** Counts the training sequences (items 0 .. itemCount - 1); validation and test items do not belong in them. */
  constructor(
    sequences: Iterable<ArrayLike<number>>,
    readonly itemCount: number,
  ) {
    this.counts = new Uint32Array(itemCount);
    for (const sequence of sequences) {
      for (let n = 0; n < sequence.length; n++) this.counts[checkItem(sequence[n], itemCount)]++;
    }
    const most = this.counts.reduce((a, b) => Math.max(a, b), 0);
    this.itemsAt = new Uint32Array(most + 1);
    for (const count of this.counts) this.itemsAt[count]++;
    this.itemsAbove = new Uint32Array(most + 1);
    for (let count = most - 1; count >= 0; count--) {
      this.itemsAbove[count] = this.itemsAbove[count + 1] + this.itemsAt[count + 1];
    }
  }

  standing(_history: ArrayLike<number>, target: number, excluded: ArrayLike<number>): Standing {
    const own = this.counts[checkItem(target, this.itemCount)];
    let above = this.itemsAbove[own];
    let equal = this.itemsAt[own] - 1;
    for (let n = 0; n < excluded.length; n++) {
      const count = this.counts[checkItem(excluded[n], this.itemCount)];
      if (count > own) above--;
      else if (count === own) equal--;
    }
    return { above, equal };
  }
}

/** Returns the item; throws when it is not an index below `itemCount`. */
export function checkItem(item: number, itemCount: number): number {
  if (!(item >= 0 && item < itemCount)) throw new Error(`item ${item} is not among the ${itemCount} items`);
  return item;
}
