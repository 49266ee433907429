import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type Dataset, testCase, trainingSequence } from "../src/data/dataset.ts";
import { detectAndRead } from "../src/data/detect.ts";
import { prepare } from "../src/data/prepare.ts";
import { Random } from "../src/data/random.ts";
import { evaluationCases } from "../src/eval/cases.ts";
import { mean, ndcg, recall, reciprocalRank } from "../src/eval/metrics.ts";
import { rankByCounts } from "../src/eval/rank-counts.ts";
import { Markov } from "../src/recommenders/markov.ts";
import { type CountingRecommender, Popularity } from "../src/recommenders/popularity.ts";
import { sharedPath } from "./shared.ts";

const t = suite("eval: popularity and Markov-1");

/** The figures of the specification, to its four decimals: recall@10, NDCG@10, MRR (null: not given). */
function assertFigures(name: string, ranks: Float64Array, expected: readonly (number | null)[]): void {
  const found = [
    mean(ranks, (r) => recall(r, 10)),
    mean(ranks, (r) => ndcg(r, 10)),
    mean(ranks, reciprocalRank),
  ];
  expected.forEach((value, n) => {
    if (value !== null) assert.is(found[n].toFixed(4), value.toFixed(4), `${name}, figure ${n}`);
  });
}

/** Expected ranks from the score of every item, as the definitions say it. */
function plainRanks(
  scores: (history: ArrayLike<number>) => number[],
  cases: readonly { history: ArrayLike<number>; target: number }[],
  excludeSeen: boolean,
): number[] {
  return cases.map(({ history, target }) => {
    const score = scores(history);
    const gone = new Set(excludeSeen ? Array.from(history) : []);
    let rank = 1;
    score.forEach((value, item) => {
      if (item === target || gone.has(item)) return;
      if (value > score[target]) rank += 1;
      else if (value === score[target]) rank += 0.5;
    });
    return rank;
  });
}

t("ranks equal those from scoring every item", () => {
  const items = 23;
  const random = new Random(7, "baselines test");
  const sequence = () =>
    Uint32Array.from({ length: 1 + random.below(9) }, () =>
      Math.min(random.below(items), random.below(items)),
    );
  const training = Array.from({ length: 40 }, sequence);
  const cases = Array.from({ length: 300 }, () => ({ history: sequence(), target: random.below(items) }));
  cases.push({ history: new Uint32Array(0), target: 3 });
  const popularity = new Array<number>(items).fill(0);
  for (const row of training) for (const item of row) popularity[item]++;
  const largest = Math.max(...popularity);
  const markov = (history: ArrayLike<number>): number[] => {
    const score = popularity.map((count) => count / (largest + 1));
    const last = history[history.length - 1];
    for (const row of training) {
      for (let n = 1; n < row.length; n++) if (row[n - 1] === last) score[row[n]]++;
    }
    return score;
  };
  for (const excludeSeen of [false, true]) {
    const pairs: [CountingRecommender, (history: ArrayLike<number>) => number[]][] = [
      [new Popularity(training, items), () => popularity],
      [new Markov(training, items), markov],
    ];
    for (const [recommender, scores] of pairs) {
      const { rank, tied } = rankByCounts(recommender, cases, { excludeSeen });
      const expected = plainRanks(scores, cases, excludeSeen);
      assert.equal([...rank], expected, `${recommender.constructor.name}, seen excluded: ${excludeSeen}`);
      const someTied = tied.some((flag) => flag === 1) && tied.some((flag) => flag === 0);
      assert.ok(someTied, "the test should see ties and targets without");
    }
  }
});

t("all items equal: everyone's target is tied at the middle rank", () => {
  const popularity = new Popularity([[0, 1, 2, 3, 4]], 5);
  const { rank, tied } = rankByCounts(popularity, [{ history: [0], target: 4 }], { excludeSeen: false });
  assert.is(rank[0], 3);
  assert.is(tied[0], 1);
});

t("a repeated target stays a candidate when seen items are excluded", () => {
  const popularity = new Popularity([[0, 0, 0, 1, 1, 2]], 3);
  const cases = [{ history: [0, 1, 0], target: 0 }];
  assert.equal([...rankByCounts(popularity, cases, { excludeSeen: true }).rank], [1]);
});

t("no users give no ranks; an item out of range is an error", () => {
  const markov = new Markov([[0, 1]], 2);
  assert.is(rankByCounts(markov, [], { excludeSeen: true }).rank.length, 0);
  assert.throws(
    () => rankByCounts(markov, [{ history: [0], target: 2 }], { excludeSeen: false }),
    "item 2 is not among the 2 items",
  );
  assert.throws(() => new Popularity([[0, 5]], 3), "item 5 is not among the 3 items");
});

t("leave-one-out needs a user with three items", () => {
  const dataset = { name: "tiny", users: ["u"], items: [], sequences: [Uint32Array.of(0, 1)] };
  assert.throws(() => evaluationCases(dataset as unknown as Dataset), /tiny: none of the 1 user/);
});

const folder = sharedPath("data/amazon-scientific");
if (folder) {
  t("amazon-scientific: the figures of the specification", async () => {
    const dataset = prepare(await detectAndRead(folder));
    assert.equal([dataset.users.length, dataset.items.length], [8317, 4344]);
    const training = dataset.sequences.map(trainingSequence);
    const { cases } = evaluationCases(dataset);
    assert.equal(cases[5], testCase(dataset.sequences[5]));
    const ranks = (recommender: CountingRecommender, excludeSeen: boolean) =>
      rankByCounts(recommender, cases, { excludeSeen }).rank;
    const markov = new Markov(training, dataset.items.length);
    assertFigures("popularity", ranks(markov.popularity, false), [0.0231, 0.0162, null]);
    assertFigures("Markov-1", ranks(markov, false), [0.0895, 0.0677, 0.0648]);
    assertFigures("Markov-1, seen excluded", ranks(markov, true), [0.0898, 0.0684, 0.0655]);
  });
}

t.run();
