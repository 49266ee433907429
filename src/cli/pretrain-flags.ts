import { type Command, Option } from "commander";
import { UserError } from "../files/user-error.ts";
import { PRETRAIN, type PretrainSettings } from "../train/pretrain.ts";
import { flagOf, realNumber, wholeNumber } from "./flags.ts";

interface PretrainField {
  readonly whole: boolean;
  readonly least: number;
  readonly most?: number;
  readonly help: string;
}

const whole = (least: number, help: string): PretrainField => ({ whole: true, least, help });
const real = (least: number, most: number, help: string): PretrainField => ({
  whole: false,
  least,
  most,
  help,
});

/** What every setting of the recommender's training means, and its range. Defaults are PRETRAIN. */
export const PRETRAIN_FIELDS: Readonly<Record<keyof PretrainSettings, PretrainField>> = {
  width: whole(4, "d_c, width of the collaborative embeddings"),
  heads: whole(1, "attention heads"),
  blocks: whole(1, "transformer blocks"),
  maxLength: whole(2, "positions: the newest items that are read"),
  dropout: real(0, 0.9, "dropout rate"),
  maskRate: real(0, 1, "share of positions masked in a random cloze"),
  lastOnly: real(0, 1, "share of sequences whose last item alone is masked, as in prediction"),
  batchSize: whole(1, "sequences in a batch"),
  learningRate: real(0, Number.POSITIVE_INFINITY, "learning rate of Adam"),
  epochs: whole(1, "most epochs"),
  patience: whole(1, "validations without a better NDCG@10 before training stops"),
  validateEvery: whole(1, "epochs between validations"),
  seed: whole(0, "seed of initial values, masks, order and dropout"),
};

const names = Object.keys(PRETRAIN_FIELDS) as (keyof PretrainSettings)[];

/** Adds one flag for every setting. */
export function addPretrainFlags(command: Command): Command {
  for (const name of names) {
    const { whole, least, most = Number.POSITIVE_INFINITY, help } = PRETRAIN_FIELDS[name];
    const flag = flagOf(name);
    const parser = whole ? wholeNumber(flag, least) : realNumber(flag, least, most);
    const text = `${help} (default: ${PRETRAIN[name]})`;
    command.addOption(new Option(`${flag} <${whole ? "n" : "x"}>`, text).argParser(parser));
  }
  return command;
}

/** The defaults with what the flags say. Throws UserError for a width that does not split into the heads. */
export function pretrainSettings(options: Readonly<Record<string, unknown>>): PretrainSettings {
  const given = names.filter((name) => options[name] !== undefined).map((name) => [name, options[name]]);
  const settings = { ...PRETRAIN, ...(Object.fromEntries(given) as Partial<PretrainSettings>) };
  const { width, heads } = settings;
  if (width % heads !== 0 || (width / heads) % 4 !== 0) {
    throw new UserError(`--width ${width} does not split into --heads ${heads} of a multiple of 4`);
  }
  return settings;
}
