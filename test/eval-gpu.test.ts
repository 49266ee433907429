import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Random } from "../src/data/random.ts";
import { rankUsers } from "../src/eval/rank.ts";
import { rankRecommender } from "../src/eval/rank-recommender.ts";
import { retrieve } from "../src/eval/top-items.ts";
import { UserError } from "../src/files/user-error.ts";
import type { RankingRecommender } from "../src/recommenders/recommender.ts";
import type { Progress } from "../src/train/progress.ts";
import { openTestGpu } from "./gpu.ts";

const t = suite("eval: ranks and lists on the GPU");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const ITEMS = 150;
const WIDTH = 6;
const random = new Random(11, "eval gpu test");

/** Small whole numbers: every score is exact in f32, whatever the order of its sum, and ties are many. */
const whole = (n: number) => Float32Array.from({ length: n }, () => random.below(5) - 2);
const table = whole(ITEMS * WIDTH);
const bias = whole(ITEMS);
const items = gpu.parameter([ITEMS, WIDTH], "f32", table);
const itemBias = gpu.parameter([ITEMS], "f32", bias);

const score = (h: ArrayLike<number>, item: number): number => {
  let sum = 0;
  for (let c = 0; c < WIDTH; c++) sum += h[c] * table[item * WIDTH + c];
  return sum;
};

function plainRank(scores: readonly number[], target: number, gone: ReadonlySet<number>): number {
  let rank = 1;
  scores.forEach((value, item) => {
    if (item === target || gone.has(item)) return;
    if (value > scores[target]) rank += 1;
    else if (value === scores[target]) rank += 0.5;
  });
  return rank;
}

/** Scores a history by the table's row of its last item and the items' biases; row 0 for an empty history. */
const recommender: RankingRecommender = {
  label: "table",
  maxLength: Number.POSITIVE_INFINITY,
  release() {},
  width: WIDTH,
  itemCount: ITEMS,
  hiddenStates() {
    throw new Error("not asked for");
  },
  ranking(step, histories) {
    const rows = histories.flatMap((history) => [...rowOf(history)]);
    const h = step.upload(Float32Array.from(rows), [histories.length, WIDTH]);
    return { h, items, bias: itemBias };
  },
};
const rowOf = (history: ArrayLike<number>) => {
  const last = history.length ? history[history.length - 1] : 0;
  return table.subarray(last * WIDTH, (last + 1) * WIDTH);
};

// More than one batch of 512.
const cases = Array.from({ length: 1100 }, (_, u) => ({
  history: Uint32Array.from({ length: u === 3 ? 0 : 1 + random.below(9) }, () => random.below(ITEMS)),
  target: random.below(ITEMS),
}));

t("a recommender's ranks, seen items kept and excluded", async () => {
  for (const excludeSeen of [false, true]) {
    const { rank, tied } = await rankRecommender(gpu, recommender, cases, { excludeSeen });
    const expected = cases.map(({ history, target }) => {
      const scores = Array.from({ length: ITEMS }, (_, i) => score(rowOf(history), i) + bias[i]);
      return plainRank(scores, target, new Set(excludeSeen ? history : []));
    });
    assert.equal([...rank], expected, `seen excluded: ${excludeSeen}`);
    assert.ok(tied.includes(1) && tied.includes(0));
    assert.ok([...tied].every((flag, u) => flag === 1 || Number.isInteger(rank[u])));
  }
});

t("progress counts users, and no users are no work", async () => {
  const done: number[] = [];
  const progress: Progress = {
    begin: (_label, total) => done.push(-total),
    update: (n) => done.push(n),
    end() {},
    line() {},
  };
  await rankRecommender(gpu, recommender, cases, { excludeSeen: false, progress });
  assert.equal(done, [-1100, 512, 1024, 1100]);
  const { rank } = await rankRecommender(gpu, recommender, [], { excludeSeen: true });
  assert.is(rank.length, 0);
});

t("long histories are ranked in small batches", async () => {
  const sizes: number[] = [];
  const counting: RankingRecommender = {
    ...recommender,
    ranking(step, histories) {
      sizes.push(histories.length);
      return recommender.ranking(step, histories);
    },
  };
  const long = cases
    .slice(0, 8)
    .map(({ target }, u) => ({ history: new Uint32Array(100_000).fill(u), target }));
  const short = long.map(({ history, target }) => ({ history: history.slice(0, 1), target }));
  const { rank } = await rankRecommender(gpu, counting, long, { excludeSeen: false });
  // Three are 1.8 million numbers of the 2.1 million that a step takes.
  assert.equal(sizes, [3, 3, 2]);
  assert.equal(rank, (await rankRecommender(gpu, recommender, short, { excludeSeen: false })).rank);
  // Only the positions that it has count.
  sizes.length = 0;
  await rankRecommender(gpu, { ...counting, maxLength: 50 }, long, { excludeSeen: false });
  assert.equal(sizes, [8]);
});

t("nobody has seen anything but the target", async () => {
  const alone = [{ history: [4, 4], target: 4 }];
  const kept = await rankRecommender(gpu, recommender, alone, { excludeSeen: false });
  const excluded = await rankRecommender(gpu, recommender, alone, { excludeSeen: true });
  assert.equal([...excluded.rank], [...kept.rank]);
});

async function failure(run: () => Promise<unknown>): Promise<Error> {
  try {
    await run();
  } catch (error) {
    return error as Error;
  }
  throw new Error("it did not fail");
}

t("a target out of range and scores that are not finite are errors", async () => {
  const outside = [{ history: [1], target: ITEMS }];
  const range = await failure(() => rankRecommender(gpu, recommender, outside, { excludeSeen: false }));
  assert.match(range.message, /target 150 is not among the recommender's 150 items/);
  const h = new Float32Array(3 * WIDTH).fill(1);
  h[2 * WIDTH] = Number.NaN;
  const ranks = await failure(() => rankUsers(gpu, h, items, [1, 2, 3]));
  assert.match(ranks.message, /user row 2 are not finite/);
  const lists = await failure(() => retrieve(gpu, h, items, 5));
  assert.match(lists.message, /user row 2 are not finite/);
});

t("embeddings' ranks in batches of any size", async () => {
  const users = 70;
  const h = whole(users * WIDTH);
  const targets = Array.from({ length: users }, () => random.below(ITEMS));
  const expected = targets.map((target, u) => {
    const row = h.subarray(u * WIDTH, (u + 1) * WIDTH);
    const scores = Array.from({ length: ITEMS }, (_, i) => score(row, i));
    return plainRank(scores, target, new Set());
  });
  for (const batch of [1, 32, 512]) {
    const { rank } = await rankUsers(gpu, h, items, targets, { batch });
    assert.equal([...rank], expected, `batch ${batch}`);
  }
});

t("the best items, with seen ones and conditions", async () => {
  const users = 300;
  const h = whole(users * WIDTH);
  const seen = Array.from({ length: users }, (_, u) =>
    Array.from({ length: u % 5 }, () => random.below(ITEMS)),
  );
  const allowed = Uint8Array.from({ length: ITEMS }, () => random.below(2));
  for (const options of [{}, { seen, allowed }]) {
    const lists = await retrieve(gpu, h, items, 10, options);
    const expected = Array.from({ length: users }, (_, u) => {
      const row = h.subarray(u * WIDTH, (u + 1) * WIDTH);
      return Array.from({ length: ITEMS }, (_, item) => ({ item, score: score(row, item) }))
        .filter(({ item }) => !("seen" in options && options.seen?.[u].includes(item)))
        .filter(({ item }) => !("allowed" in options) || options.allowed?.[item] === 1)
        .sort((a, b) => b.score - a.score || a.item - b.item)
        .slice(0, 10);
    });
    assert.equal(lists, expected, Object.keys(options).join());
  }
});

t("fewer items than asked for, and none", async () => {
  const h = whole(WIDTH);
  const allowed = new Uint8Array(ITEMS);
  allowed[33] = 1;
  allowed[149] = 1;
  const [list] = await retrieve(gpu, h, items, 10, { allowed });
  assert.equal(list.map(({ item }) => item).sort(), [149, 33]);
  const none = await failure(() => retrieve(gpu, h, items, 10, { allowed, seen: [[33, 149]] }));
  assert.ok(none instanceof UserError);
  assert.match(none.message, /nothing is left to recommend/);
});

t.run();
