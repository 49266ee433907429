/**
 * The recommenders that this project trains, one table of settings each: what a setting means, its range and default.
 * The flags of `laser pretrain` and the checks of stored settings are made from these tables.
 */
import { UserError } from "../files/user-error.ts";
import { checkValue, choice, type Field, type FieldValue, integer, number } from "./fields.ts";

/** What may lie under Laser; `vectors` are item vectors made elsewhere (docs/data.md). */
export const RECOMMENDER_NAMES = ["bert4rec", "sasrec", "vectors"] as const;
export type RecommenderName = (typeof RECOMMENDER_NAMES)[number];

/** Those that are trained here. */
export const TRAINED = ["bert4rec", "sasrec"] as const;
export type TrainedName = (typeof TRAINED)[number];

/** Two blocks, two heads of 32: the paper's appendix B. */
const shape = {
  width: integer(64, 4, "d_c, width of the collaborative embeddings"),
  heads: integer(2, 1, "attention heads"),
  blocks: integer(2, 1, "transformer blocks"),
};

const training = {
  batchSize: integer(128, 1, "sequences in a batch, at most"),
  batchItems: integer(
    1024,
    1,
    "items in a batch, at most: where sequences are long, fewer of them make a batch",
  ),
  learningRate: number(1e-3, 0, "learning rate of Adam"),
  epochs: integer(1000, 1, "most epochs"),
  seed: integer(1, 0, "seed of initial values, order, masks or negatives, and dropout"),
};

const PATIENCE = "validations without a better NDCG@10 before training stops";
const VALIDATE_EVERY = "updates between validations, at least: each is at the end of an epoch";

const BERT4REC_FIELDS = {
  ...shape,
  maxLength: integer(200, 2, "positions: the newest items that are read"),
  dropout: number(0.2, 0, "dropout rate", 0.9),
  maskRate: number(0.5, 0, "share of positions masked in a random cloze", 1),
  lastOnly: number(0.2, 0, "share of sequences whose last item alone is masked, as in prediction", 1),
  ...training,
  // Validation stands still for the first thousands of updates on short histories: patience must outlast that.
  patience: integer(10, 1, PATIENCE),
  validateEvery: integer(300, 1, VALIDATE_EVERY),
} as const;

const SASREC_FIELDS = {
  ...shape,
  maxLength: integer(200, 1, "positions: the newest items that are read"),
  dropout: number(0.2, 0, "dropout rate", 0.9),
  loss: choice(
    "cross-entropy",
    ["cross-entropy", "binary"],
    "cross-entropy against all items, or the original: binary, against one sampled item a position",
  ),
  ...training,
  patience: integer(5, 1, PATIENCE),
  validateEvery: integer(130, 1, VALIDATE_EVERY),
} as const;

type Values<F> = { readonly [K in keyof F]: FieldValue<F[K]> };

export type Bert4RecSettings = { readonly recommender: "bert4rec" } & Values<typeof BERT4REC_FIELDS>;
export type SasRecSettings = { readonly recommender: "sasrec" } & Values<typeof SASREC_FIELDS>;

/** How a recommender is trained. */
export type PretrainSettings = Bert4RecSettings | SasRecSettings;

/** Item vectors made elsewhere, as they were matched to the data. */
export interface VectorSettings {
  readonly recommender: "vectors";
  /** d_c. */
  readonly width: number;
  /** Items of the data that have a vector. */
  readonly matched: number;
  /** Of the matched vectors. */
  readonly sha256: string;
}

/** What a recommender's folder, and a run, record of it. */
export type RecommenderSettings = PretrainSettings | VectorSettings;

/** The tables, by recommender. */
export const PRETRAIN_FIELDS: Readonly<Record<TrainedName, Readonly<Record<string, Field>>>> = {
  bert4rec: BERT4REC_FIELDS,
  sasrec: SASREC_FIELDS,
};

function defaultsOf(name: TrainedName): PretrainSettings {
  const values = Object.entries(PRETRAIN_FIELDS[name]).map(([field, { default: value }]) => [field, value]);
  return { recommender: name, ...Object.fromEntries(values) } as PretrainSettings;
}

/** The defaults: the settings with which each reaches the published quality on short histories. */
export const PRETRAIN = {
  bert4rec: defaultsOf("bert4rec") as Bert4RecSettings,
  sasrec: defaultsOf("sasrec") as SasRecSettings,
};

/** A recommender's name. Throws UserError naming `source` for one that is not trained here. */
export function trainedName(name: unknown, source: string): TrainedName {
  if (!TRAINED.includes(name as TrainedName)) {
    throw new UserError(
      `${source}: recommender is ${JSON.stringify(name)}; expected one of ${TRAINED.join(", ")}`,
    );
  }
  return name as TrainedName;
}

/** Settings from values, the rest being defaults. Throws UserError naming `source` and the field that is wrong. */
export function pretrainSettings(
  name: TrainedName,
  values: Readonly<Record<string, unknown>>,
  source: string,
): PretrainSettings {
  const fields = PRETRAIN_FIELDS[name];
  const settings: Record<string, unknown> = { ...PRETRAIN[name] };
  for (const [field, value] of Object.entries(values)) {
    if (!Object.hasOwn(fields, field)) {
      throw new UserError(
        `${source}: ${name} has no setting ${field}; it has ${Object.keys(fields).join(", ")}`,
      );
    }
    settings[field] = checkValue(fields[field], field, value, source);
  }
  const { width, heads } = settings as unknown as PretrainSettings;
  if (width % heads !== 0 || (width / heads) % 4 !== 0) {
    throw new UserError(`${source}: width ${width} does not split into ${heads} heads of a multiple of 4`);
  }
  return settings as unknown as PretrainSettings;
}

const VECTOR_FIELDS: Readonly<Record<string, Field>> = {
  width: integer(1, 1, "d_c"),
  matched: integer(1, 1, "items with a vector"),
};

/** Settings as they were stored: every field must be there. Throws UserError naming `source` and the field. */
export function storedSettings(
  stored: Readonly<Record<string, unknown>>,
  source: string,
): RecommenderSettings {
  const { recommender, ...values } = stored;
  if (recommender === "vectors") {
    for (const [field, table] of Object.entries(VECTOR_FIELDS))
      checkValue(table, field, values[field], source);
    if (typeof values.sha256 !== "string") throw new UserError(`${source}: sha256 is missing`);
    return stored as unknown as VectorSettings;
  }
  const name = trainedName(recommender, source);
  for (const field of Object.keys(PRETRAIN_FIELDS[name])) {
    if (!Object.hasOwn(values, field)) throw new UserError(`${source}: setting ${field} is missing`);
  }
  return pretrainSettings(name, values, source);
}

/** Whether two recommenders are the same, in everything that could change their result. */
export function sameSettings(a: RecommenderSettings, b: RecommenderSettings): boolean {
  const [one, other]: Readonly<Record<string, unknown>>[] = [{ ...a }, { ...b }];
  return [...Object.keys(a), ...Object.keys(b)].every((name) => one[name] === other[name]);
}
