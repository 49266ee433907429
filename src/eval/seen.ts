/** A history and the item that followed it: what an evaluation ranks. */
export interface RankingCase {
  readonly history: ArrayLike<number>;
  readonly target: number;
}

/**
 * The items that `--exclude-seen` removes from a user's candidates: those of the whole history, each once, ascending,
 * and never the target (a target seen before stays a candidate).
 */
export function seenItems({ history, target }: RankingCase): Uint32Array<ArrayBuffer> {
  const seen = new Set<number>();
  for (let n = 0; n < history.length; n++) if (history[n] !== target) seen.add(history[n]);
  return Uint32Array.from(seen).sort();
}
