import { UserError } from "../files/user-error.ts";
import { type RecommenderChoice, recommenderSettings } from "../train/recommender.ts";
import { type RecommenderName, TRAINED, type TrainedName } from "../train/recommender-settings.ts";

export const RECOMMENDER_HELP = `${TRAINED.join(", ")} (the one kept for this data, trained first if there is none), or a folder made by laser pretrain (default: ${TRAINED[0]})`;

/** A recommender that a flag names: which kind it is, and where it comes from. */
export interface GivenRecommender {
  readonly name: RecommenderName;
  readonly choice: RecommenderChoice;
}

/** What --recommender says: a name, or else a folder. Throws UserError. */
export async function recommenderNamed(text: string): Promise<GivenRecommender> {
  if (TRAINED.includes(text as TrainedName)) {
    const name = text as TrainedName;
    return { name, choice: { name } };
  }
  if (text === "vectors")
    throw new UserError("--recommender vectors: give the vectors with --item-vectors FILE");
  const { recommender } = await recommenderSettings(text).catch((error: unknown) => {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(`--recommender ${text} is not ${TRAINED.join(" or ")}, and: ${error.message}`);
  });
  return { name: recommender, choice: { folder: text } };
}

/** What --recommender or --item-vectors say; null when neither was given. Throws UserError. */
export async function givenRecommender(flags: {
  readonly recommender?: string;
  readonly itemVectors?: string;
  readonly itemIds?: string;
}): Promise<GivenRecommender | null> {
  const { recommender, itemVectors: vectors, itemIds: ids } = flags;
  if (ids !== undefined && vectors === undefined) {
    throw new UserError(`--item-ids ${ids}: they name the rows of --item-vectors FILE, which is not given`);
  }
  if (vectors === undefined) return recommender === undefined ? null : recommenderNamed(recommender);
  if (recommender !== undefined) {
    throw new UserError(
      `--recommender ${recommender} and --item-vectors ${vectors} are two recommenders; give one`,
    );
  }
  return { name: "vectors", choice: { vectors, ids } };
}

/** The recommender of a configuration that no flag says more about. Throws UserError for item vectors. */
export function namedRecommender(name: RecommenderName): RecommenderChoice {
  if (name === "vectors") throw new UserError("recommender is vectors: give them with --item-vectors FILE");
  return { name };
}
