import { type Dataset, userSubset } from "../data/dataset.ts";
import { Random } from "../data/random.ts";
import type { Config } from "./config.ts";

/** Seed of the subset of users: not the run's, so that runs of several seeds are over the same users. */
const SUBSET_SEED = 1;

/** The users that a run trains, validates and is evaluated on (0: all): the same n for every run. */
export function runUsers(dataset: Dataset, n: number): Uint32Array {
  return userSubset(dataset, n, SUBSET_SEED);
}

/**
 * Those of a run's users whose sequences are trained on: the share `trainShare` of them, chosen by the run's seed, so
 * that a larger share holds every smaller one. At least one user, unless the share is 0.
 */
export function trainingUsers(users: Uint32Array, config: Pick<Config, "trainShare" | "seed">): Uint32Array {
  const { trainShare, seed } = config;
  if (trainShare === 1) return users;
  const count = trainShare === 0 ? 0 : Math.max(1, Math.round(trainShare * users.length));
  const order = new Random(seed, "training share").permutation(users.length);
  return Uint32Array.from(order.subarray(0, count), (n) => users[n]).sort();
}

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
