import { Random } from "../data/random.ts";

/** A training row: predict `target` from `history` (oldest first). */
export interface Example {
  readonly user: number;
  readonly history: Uint32Array;
  readonly target: number;
}

export type ExampleMode = "all" | "last" | "random";

/**
 * The rows of one epoch in their order. `all`: every prefix of a training sequence with the item after it; `last`:
 * only the last item of each; `random`: one target a user. Order and targets depend on (seed, phase, epoch) alone, so
 * a resumed epoch is the same epoch.
 */
export function epochExamples(
  sequences: readonly { readonly user: number; readonly items: Uint32Array }[],
  mode: ExampleMode,
  key: { readonly seed: number; readonly phase: number; readonly epoch: number },
): Example[] {
  const random = new Random(key.seed, "examples", key.phase, key.epoch);
  const rows: Example[] = [];
  for (const { user, items } of sequences) {
    if (items.length < 2) continue;
    const add = (t: number) => rows.push({ user, history: items.subarray(0, t), target: items[t] });
    if (mode === "last") add(items.length - 1);
    else if (mode === "random") add(1 + random.below(items.length - 1));
    else for (let t = 1; t < items.length; t++) add(t);
  }
  return random.shuffle(rows);
}
