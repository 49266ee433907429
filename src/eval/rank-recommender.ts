import type { Gpu } from "../gpu/device.ts";
import type { RankingRecommender } from "../recommenders/recommender.ts";
import { type Progress, SILENT } from "../train/progress.ts";
import { type Ranks, rankBatches } from "./rank.ts";
import { type RankingCase, seenItems } from "./seen.ts";

/** Histories to a GPU step, at most, and numbers in the hidden states that they become: 8 MiB a tensor. */
const MOST_HISTORIES = 512;
const MOST_NUMBERS = 2 ** 21;

/** How many histories go into a step. What a history gives does not depend on it. */
function batchSize({ maxLength, width }: RankingRecommender, cases: readonly RankingCase[]): number {
  const longest = cases.reduce((most, { history }) => Math.max(most, history.length), 1);
  const fit = Math.floor(MOST_NUMBERS / (Math.min(longest, maxLength) * width));
  return Math.max(1, Math.min(MOST_HISTORIES, fit));
}

/**
 * Exact ranks of the targets under an ID recommender's own scores, among all the items it knows.
 *
 * Histories may be of any length (the recommender reads the newest items it has positions for); `excludeSeen` removes
 * the items of the whole history from a user's candidates, never the target. Throws when a score is not finite, and
 * for a target that the recommender has no score for.
 */
export async function rankRecommender(
  gpu: Gpu,
  recommender: RankingRecommender,
  cases: readonly RankingCase[],
  options: { readonly excludeSeen: boolean; readonly progress?: Progress; readonly label?: string },
): Promise<Ranks> {
  const { excludeSeen, progress = SILENT, label = "ranking" } = options;
  const unknown = cases.find(({ target }) => !(target < recommender.itemCount));
  if (unknown) {
    throw new Error(
      `the target ${unknown.target} is not among the recommender's ${recommender.itemCount} items`,
    );
  }
  progress.begin(label, cases.length, "users");
  const ranks = await rankBatches(
    gpu,
    cases.length,
    batchSize(recommender, cases),
    (step, from, to) => {
      const batch = cases.slice(from, to);
      const histories = batch.map(({ history }) => history);
      return {
        ...recommender.ranking(step, histories),
        targets: Uint32Array.from(batch, ({ target }) => target),
        seen: excludeSeen ? batch.map(seenItems) : null,
      };
    },
    (done) => progress.update(done),
  );
  progress.end();
  return ranks;
}
