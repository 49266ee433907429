import { trainingSequence } from "../data/dataset.ts";
import type { EvaluationCases } from "../eval/cases.ts";
import { rankUsers } from "../eval/rank.ts";
import { rankByCounts } from "../eval/rank-counts.ts";
import { rankRecommender } from "../eval/rank-recommender.ts";
import { seenItems } from "../eval/seen.ts";
import type { MethodRanks } from "../eval/summary.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Bert4Rec } from "../recommenders/bert4rec.ts";
import { Markov } from "../recommenders/markov.ts";
import { Popularity } from "../recommenders/popularity.ts";
import { encodeAll } from "./encode.ts";
import type { Progress } from "./progress.ts";
import type { Session } from "./session.ts";

/** Ranks of the reference rows of every report: popularity, Markov-1 and the frozen recommender underneath. */
export async function rankReferences(
  gpu: Gpu,
  session: Pick<Session, "dataset"> & { readonly recommender: Bert4Rec },
  { cases }: EvaluationCases,
  excludeSeen: boolean,
  progress: Progress,
): Promise<MethodRanks[]> {
  const { dataset, recommender } = session;
  const sequences = dataset.sequences.map(trainingSequence);
  const count = dataset.items.length;
  const options = { excludeSeen };
  return [
    { name: "popularity", ranks: rankByCounts(new Popularity(sequences, count), cases, options) },
    { name: "Markov-1", ranks: rankByCounts(new Markov(sequences, count), cases, options) },
    {
      name: "BERT4Rec",
      ranks: await rankRecommender(gpu, recommender, cases, {
        excludeSeen,
        progress,
        label: "ranking with BERT4Rec",
      }),
    },
  ];
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
