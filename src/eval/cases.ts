import {
  type Case,
  coldItems,
  type Dataset,
  testCase,
  trainingCounts,
  validationCase,
} from "../data/dataset.ts";
import { UserError } from "../files/user-error.ts";

/** What an evaluation ranks: one case a user (leave-one-out), and which targets are cold. */
export interface EvaluationCases {
  readonly split: "test" | "validation";
  /** User indexes, ascending as given; case n belongs to users[n]. */
  readonly users: Uint32Array;
  readonly cases: readonly Case[];
  /** 1 where the target is one of the bottom 35 % of items by training interactions (of all users). */
  readonly cold: Uint8Array;
  /** Users with fewer than three items: all of theirs is training data. */
  readonly skipped: number;
}

/**
 * The leave-one-out cases of a dataset, of all users or of the given ones. Throws a UserError when no user has the
 * three items that leave-one-out needs.
 */
export function evaluationCases(
  dataset: Dataset,
  options: { readonly users?: ArrayLike<number>; readonly split?: "test" | "validation" } = {},
): EvaluationCases {
  const { split = "test" } = options;
  const asked = options.users ? Array.from(options.users) : dataset.users.map((_, u) => u);
  const users: number[] = [];
  const cases: Case[] = [];
  for (const u of asked) {
    const row = split === "test" ? testCase(dataset.sequences[u]) : validationCase(dataset.sequences[u]);
    if (!row) continue;
    users.push(u);
    cases.push(row);
  }
  if (cases.length === 0) {
    throw new UserError(
      `${dataset.name}: none of the ${asked.length} user(s) has three items, and leave-one-out needs one each to train, validate and test; give longer histories`,
    );
  }
  const coldFlags = coldItems(trainingCounts(dataset));
  const cold = Uint8Array.from(cases, ({ target }) => coldFlags[target]);
  return { split, users: Uint32Array.from(users), cases, cold, skipped: asked.length - cases.length };
}
