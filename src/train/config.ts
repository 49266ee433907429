/**
 * Every hyper-parameter of a run, in one table: its type, default, range, what it means and where it comes from. The
 * command line's flags, the validation of config files and docs/config.md are all made from this table.
 */
import { readFile } from "node:fs/promises";
import { TEMPLATES, type TemplateName } from "../data/template.ts";
import { UserError } from "../files/user-error.ts";
import { WEIGHT_STORAGES } from "../llm/weight-stream.ts";
import {
  checkValue,
  choice,
  type Field,
  type FieldValue,
  flag,
  integer,
  number,
  type OptionalNumberField,
} from "./fields.ts";
import { RECOMMENDER_NAMES, type RecommenderName } from "./recommender-settings.ts";

/** The table. Symbols are the paper's. */
export const FIELDS = {
  seed: integer(1, 0, "seed of everything random: initial values, order, dropout, subsets"),
  users: integer(0, 0, "train and evaluate on this many users, the same for every seed (0: all)"),
  trainShare: number(1, 0, "share of the users whose histories are trained on (Figure 3; 0: zero-shot)", 1),
  template: choice<TemplateName>("paper", TEMPLATES, "hard prompt (section 4.1, Table 5)"),
  maxHistory: integer(10, 1, "newest items a text shows (authors' code: 10)"),
  recommender: choice<RecommenderName>(
    "bert4rec",
    RECOMMENDER_NAMES,
    "frozen ID recommender underneath (Figure 5); vectors: item vectors made elsewhere",
  ),
  weights: choice(
    "f16",
    WEIGHT_STORAGES,
    "storage of the frozen backbone's linear weights in GPU memory; all but f32 multiply f16 on tensor cores where there are any",
  ),
  products: choice(
    "f32",
    ["f32", "f16"],
    "what trained linear layers multiply: f32, or f16 on tensor cores where there are any, from 32 rows on (mixed precision: weights, sums and updates stay f32; feed-forward experts, router and attention stay f32 altogether)",
  ),

  prefix: choice(
    "mformer",
    ["mformer", "free", "none"],
    "virtual tokens before the text: M-Former, free vectors (w/o M-Former), or none (w/o prefix)",
  ),
  moe: choice(
    "query",
    ["query", "ffn"],
    "what there are K of: sets of query vectors (the paper), or feed-forward layers in every block",
  ),
  queryTokens: integer(32, 1, "L, virtual tokens in the prefix"),
  experts: integer(8, 1, "K, experts", 64),
  activeExperts: integer(3, 1, "k, experts active for a user", 64),
  mformerWidth: integer(768, 4, "d_m, the M-Former's width"),
  mformerBlocks: integer(12, 1, "Z, the M-Former's blocks; even ones cross-attend"),
  mformerHeads: integer(12, 1, "H, the M-Former's attention heads"),
  gates: choice(
    "weights",
    ["weights", "softmax", "normalized"],
    "gate of an active expert: w_j (paper), softmax over the chosen (authors' code), or w_j / sum",
  ),
  dropout: number(0.1, 0, "dropout rate of the M-Former", 0.9),
  pooling: choice(
    "suffix",
    ["suffix", "mean", "eos"],
    "h is the mean over learned suffix tokens (paper), over all outputs without a suffix (w/ average pooling), or the output at a hard EOS token (w/ [EOS])",
  ),
  suffixTokens: integer(1, 1, "s, virtual tokens after the text with pooling suffix"),
  projection: flag(false, "a trainable linear layer, d to d, between the language model's output and h"),

  temperature: number(0.05, 1e-4, "tau of Eq. 6"),
  lambda: number(0.1, 0, "weight of the load-balancing loss (Eq. 10)"),
  loadBalancing: choice(
    "sequence",
    ["sequence", "batch"],
    "Eq. 7-9 per user as written (sequence), or over all positions of the batch (authors' code)",
  ),

  phase1Epochs: integer(15, 0, "most epochs of phase 1 (items encoded anew each epoch)"),
  phase2Epochs: integer(5, 0, "most epochs of phase 2 (items fixed)"),
  patience: integer(3, 1, "epochs without a better validation NDCG@10 before a phase stops"),
  examples: choice(
    "all",
    ["all", "last", "random"],
    "training rows: every prefix of a sequence, its last item only, or one random target a user and epoch",
  ),
  batchSize: integer(4, 1, "users in a batch"),
  accumulate: integer(1, 1, "batches whose gradients are added before an update"),
  optimizer: choice("adam", ["adam", "adamw"], "Adam (paper) or AdamW (authors' code)"),
  learningRate: number(1e-4, 0, "learning rate"),
  weightDecay: number(0.05, 0, "decoupled weight decay, AdamW only"),
  beta1: number(0.9, 0, "Adam's beta1", 0.99999),
  beta2: number(0.999, 0, "Adam's beta2", 0.99999999),
  schedule: choice(
    "constant",
    ["constant", "cosine"],
    "learning rate over a phase: constant, or linear warm-up then cosine to zero",
  ),
  warmupSteps: integer(0, 0, "updates of linear warm-up"),
  clip: {
    kind: "number-or-off",
    default: null,
    min: 0,
    help: "largest joint gradient norm, or off",
  } as OptionalNumberField,

  validationUsers: integer(0, 0, "users that the validation after each epoch ranks (0: all)"),
  tokenBudget: integer(8192, 64, "tokens (virtual ones included) encoded in one GPU step"),
  checkpointSteps: integer(200, 1, "updates between checkpoints; there is one after every epoch as well"),
} as const;

/** A complete, validated configuration. */
export type Config = { -readonly [K in keyof typeof FIELDS]: FieldValue<(typeof FIELDS)[K]> };
export type ConfigName = keyof Config;

/** The paper's choices are the defaults; `authors` is what the published code does. */
export const PRESETS: Readonly<Record<string, Partial<Config>>> = {
  paper: {},
  authors: {
    gates: "softmax",
    loadBalancing: "batch",
    optimizer: "adamw",
    weightDecay: 0.05,
    schedule: "cosine",
    warmupSteps: 100,
  },
};

const fields = FIELDS as unknown as Readonly<Record<string, Field>>;

/** All defaults. */
export function defaultConfig(): Config {
  return Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.default])) as Config;
}

/** The field whose name differs least from a misspelt one. */
function nearest(name: string): string {
  const distance = (a: string, b: string) => {
    const row = Array.from({ length: b.length + 1 }, (_, j) => j);
    for (let i = 1; i <= a.length; i++) {
      let diagonal = row[0]++;
      for (let j = 1; j <= b.length; j++) {
        const up = row[j];
        row[j] = Math.min(row[j] + 1, row[j - 1] + 1, diagonal + Number(a[i - 1] !== b[j - 1]));
        diagonal = up;
      }
    }
    return row[b.length];
  };
  return Object.keys(fields).reduce((best, field) =>
    distance(name, field) < distance(name, best) ? field : best,
  );
}

/** Overlays values on a configuration. Throws UserError naming `source` and the field that is unknown or wrong. */
export function overlay(base: Config, values: Readonly<Record<string, unknown>>, source: string): Config {
  const config = { ...base } as Record<string, unknown>;
  for (const [name, value] of Object.entries(values)) {
    if (!Object.hasOwn(fields, name)) {
      throw new UserError(`${source}: unknown field ${JSON.stringify(name)}; did you mean ${nearest(name)}?`);
    }
    config[name] = checkValue(fields[name], name, value, source);
  }
  return config as Config;
}

/** What must hold between fields. Throws UserError. */
export function checkConfig(config: Config, source: string): Config {
  if (config.activeExperts > config.experts) {
    throw new UserError(
      `${source}: activeExperts is ${config.activeExperts}, more than experts (${config.experts}); choose at most that many`,
    );
  }
  if (
    config.mformerWidth % config.mformerHeads !== 0 ||
    (config.mformerWidth / config.mformerHeads) % 4 !== 0
  ) {
    throw new UserError(
      `${source}: mformerWidth ${config.mformerWidth} does not split into ${config.mformerHeads} heads of a multiple of 4`,
    );
  }
  if (config.prefix === "none" && config.pooling !== "suffix" && !config.projection) {
    throw new UserError(
      `${source}: with prefix none, pooling ${config.pooling} and no projection there is nothing to train; choose one of them otherwise`,
    );
  }
  return config;
}

/** A preset by name. Throws UserError for one that does not exist. */
export function presetConfig(name: string): Config {
  if (!Object.hasOwn(PRESETS, name)) {
    throw new UserError(`--preset ${name}: there are ${Object.keys(PRESETS).join(" and ")}`);
  }
  return { ...defaultConfig(), ...PRESETS[name] };
}

/** Reads a JSON file of fields. Throws UserError naming the file. */
export async function readConfigFile(path: string): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw new UserError(
      `${path}: cannot be read (${(error as NodeJS.ErrnoException).code}); give a JSON file of fields`,
    );
  }
  try {
    const parsed: unknown = JSON.parse(text);
    if (parsed && typeof parsed === "object" && !Array.isArray(parsed))
      return parsed as Record<string, unknown>;
  } catch (error) {
    throw new UserError(`${path}: not valid JSON (${(error as Error).message})`);
  }
  throw new UserError(`${path}: expected a JSON object of fields`);
}
