// A prepared dataset in memory, and the leave-one-out protocol over it.
import { createHash } from "node:crypto";
import { Random } from "./random.ts";

/** An item as it is shown to the language model. `id` is the source's id. */
export interface Item {
  readonly id: string;
  readonly title: string;
  readonly brand?: string;
  readonly category?: string;
}

/** The numbers of the paper's Table 1, and how often the next item is simply the same again. */
export interface Statistics {
  users: number;
  items: number;
  interactions: number;
  /** Mean length of a user's sequence (n in Table 1). */
  averageLength: number;
  /** interactions / (users x items). */
  density: number;
  /** Share of all (item, next item) pairs in which both are the same item. */
  repeatShare: number;
  /** The same for the test targets alone: this share of the test is free for a model that repeats the last item. */
  testRepeatShare: number;
}

/** What one step of the preparation removed. */
export interface Dropped {
  reason: string;
  users: number;
  items: number;
  interactions: number;
  /** Up to three ids (of items, or of users and items), to look at. */
  examples: string[];
}

/** Where a dataset came from and what was done to it; kept with it. */
export interface Provenance {
  format: string;
  /** Interactions needed of every user and item (5: five-core); 0 if none were. */
  core: number;
  duplicates: "keep" | "drop";
  dropped: Dropped[];
  files: { path: string; sha256: string; records: number; malformed: number; firstMalformed?: string }[];
  /** Records of the item file about items that nobody interacted with. */
  unusedItems: number;
}

/** Users and items are numbered from 0; `sequences[u]` holds user u's items, oldest first. */
export interface Dataset {
  readonly name: string;
  readonly users: readonly string[];
  readonly items: readonly Item[];
  readonly sequences: readonly Uint32Array[];
  readonly statistics: Statistics;
  /** sha256 (hex) over users, items and sequences: equal hashes are equal data. */
  readonly hash: string;
  readonly provenance: Provenance;
}

/** Completes a dataset with its statistics and hash. */
export function makeDataset(content: Omit<Dataset, "statistics" | "hash">): Dataset {
  const hash = createHash("sha256");
  for (const line of contentLines(content)) hash.update(line);
  return { ...content, statistics: statisticsOf(content), hash: hash.digest("hex") };
}

/** The content as JSON lines, items first: what is hashed and what is stored. */
export function* contentLines(content: Pick<Dataset, "users" | "items" | "sequences">): Generator<string> {
  for (const { id, title, brand, category } of content.items) {
    yield `${JSON.stringify({ item: id, title, brand, category })}\n`;
  }
  for (let u = 0; u < content.users.length; u++) {
    yield `{"user":${JSON.stringify(content.users[u])},"items":[${content.sequences[u].join(",")}]}\n`;
  }
}

function statisticsOf({
  users,
  items,
  sequences,
}: Pick<Dataset, "users" | "items" | "sequences">): Statistics {
  let interactions = 0;
  let pairs = 0;
  let repeats = 0;
  let tests = 0;
  let testRepeats = 0;
  for (const sequence of sequences) {
    const n = sequence.length;
    interactions += n;
    pairs += Math.max(0, n - 1);
    for (let k = 1; k < n; k++) if (sequence[k] === sequence[k - 1]) repeats++;
    if (testCase(sequence)) {
      tests++;
      if (sequence[n - 1] === sequence[n - 2]) testRepeats++;
    }
  }
  return {
    users: users.length,
    items: items.length,
    interactions,
    averageLength: interactions / users.length,
    density: interactions / (users.length * items.length),
    repeatShare: pairs ? repeats / pairs : 0,
    testRepeatShare: tests ? testRepeats / tests : 0,
  };
}

/** A history and the item that followed it. */
export interface Case {
  history: Uint32Array;
  target: number;
}

/** A sequence shorter than this has nothing to spare for validation and test: all of it is training data. */
const SHORTEST_SPLIT = 3;

/** The training part of a user's sequence: all but the last two items. A view, not a copy. */
export function trainingSequence(sequence: Uint32Array): Uint32Array {
  return sequence.length < SHORTEST_SPLIT ? sequence : sequence.subarray(0, -2);
}

/** The item before the last, after the training part; null for users with fewer than three items. */
export function validationCase(sequence: Uint32Array): Case | null {
  const n = sequence.length;
  return n < SHORTEST_SPLIT ? null : { history: sequence.subarray(0, n - 2), target: sequence[n - 2] };
}

/** The last item; the history holds the validation item. Null for users with fewer than three items. */
export function testCase(sequence: Uint32Array): Case | null {
  const n = sequence.length;
  return n < SHORTEST_SPLIT ? null : { history: sequence.subarray(0, n - 1), target: sequence[n - 1] };
}

/** How often each item occurs in the training sequences of all users, or of the given ones: [items]. */
export function trainingCounts(dataset: Dataset, users?: ArrayLike<number>): Uint32Array {
  const counts = new Uint32Array(dataset.items.length);
  const add = (u: number): void => {
    for (const item of trainingSequence(dataset.sequences[u])) counts[item]++;
  };
  if (users) for (let k = 0; k < users.length; k++) add(users[k]);
  else for (let u = 0; u < dataset.users.length; u++) add(u);
  return counts;
}

/** The paper's cold items (its Figure 2): the bottom 35 % of items by training interactions. */
export const COLD_SHARE = 0.35;

/** 1 for each cold item, 0 for the others: floor(share x items) of them, ties to the lower item index. */
export function coldItems(counts: Uint32Array, share = COLD_SHARE): Uint8Array {
  const order = Uint32Array.from(counts, (_, i) => i).sort((a, b) => counts[a] - counts[b] || a - b);
  const cold = new Uint8Array(counts.length);
  for (const item of order.subarray(0, Math.floor(share * counts.length))) cold[item] = 1;
  return cold;
}

/**
 * `n` users chosen by chance, as ascending user indexes (all users when n is 0 or more than there are). They are the
 * first n of one seeded permutation, so a larger subset holds every smaller one.
 */
export function userSubset(dataset: Dataset, n: number, seed: number | string): Uint32Array {
  const users = dataset.users.length;
  if (n <= 0 || n >= users) return Uint32Array.from({ length: users }, (_, u) => u);
  return new Random(seed, "user subset").permutation(users).slice(0, n).sort();
}
