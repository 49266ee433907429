import { type Dataset, trainingSequence } from "../data/dataset.ts";
import type { EvaluationCases } from "../eval/cases.ts";
import { rankUsers } from "../eval/rank.ts";
import { rankByCounts } from "../eval/rank-counts.ts";
import { rankRecommender } from "../eval/rank-recommender.ts";
import { seenItems } from "../eval/seen.ts";
import type { MethodRanks } from "../eval/summary.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { Markov } from "../recommenders/markov.ts";
import { Popularity } from "../recommenders/popularity.ts";
import { canRank, type Recommender } from "../recommenders/recommender.ts";
import { encodeAll } from "./encode.ts";
import type { Progress } from "./progress.ts";
import type { Session } from "./session.ts";

/** Ranks of the reference rows of every report: popularity, Markov-1 and, if it can rank, the frozen recommender. */
export async function rankReferences(
  gpu: Gpu,
  { dataset, recommender }: Pick<Session, "dataset" | "recommender">,
  evaluation: EvaluationCases,
  excludeSeen: boolean,
  progress: Progress,
): Promise<MethodRanks[]> {
  const counted = rankCounts(dataset, evaluation, excludeSeen);
  const own = await rankFrozen(gpu, recommender, evaluation, excludeSeen, progress);
  return own ? [...counted, own] : counted;
}

/** Ranks by popularity and by Markov-1. */
export function rankCounts(
  dataset: Dataset,
  { cases }: EvaluationCases,
  excludeSeen: boolean,
): MethodRanks[] {
  const sequences = dataset.sequences.map(trainingSequence);
  const count = dataset.items.length;
  const options = { excludeSeen };
  return [
    { name: "popularity", ranks: rankByCounts(new Popularity(sequences, count), cases, options) },
    { name: "Markov-1", ranks: rankByCounts(new Markov(sequences, count), cases, options) },
  ];
}

/** Ranks of an ID recommender under its label; null for one that has no scores of its own. */
export async function rankFrozen(
  gpu: Gpu,
  recommender: Recommender,
  { cases }: EvaluationCases,
  excludeSeen: boolean,
  progress: Progress,
): Promise<MethodRanks | null> {
  if (!canRank(recommender)) return null;
  const options = { excludeSeen, progress, label: `ranking with ${recommender.label}` };
  return { name: recommender.label, ranks: await rankRecommender(gpu, recommender, cases, options) };
}

/** Ranks of a trained Laser whose user encoder is loaded; `embeddings` are E of the dataset's items on the GPU. */
export async function rankLaser(
  session: Session,
  embeddings: Tensor,
  { cases }: EvaluationCases,
  excludeSeen: boolean,
  progress: Progress,
  name = "Laser",
): Promise<MethodRanks> {
  const { gpu, laser, texts, config } = session;
  const inputs = cases.map(({ history }) => texts.user(history));
  const h = await encodeAll(gpu, laser, inputs, config.tokenBudget, progress, `encoding users (${name})`);
  const targets = cases.map(({ target }) => target);
  const seen = excludeSeen ? cases.map(seenItems) : null;
  return { name, ranks: await rankUsers(gpu, h, embeddings, targets, { seen }) };
}
