/** What hyper-parameters a command was asked for: --config, --ablation, and the flags of the fields and the recommender. */
import { UserError } from "../files/user-error.ts";
import { ablationNamed } from "../train/ablations.ts";
import {
  type Config,
  type ConfigName,
  checkConfig,
  overlay,
  presetConfig,
  readConfigFile,
} from "../train/config.ts";
import { configFromFlags } from "./flags.ts";
import { type GivenRecommender, givenRecommender } from "./recommender-flag.ts";

/** The flags that say what hyper-parameters are wanted, beside one for every field. */
export interface ConfigFlags extends Record<string, unknown> {
  readonly preset?: string;
  readonly config?: string;
  readonly ablation?: string;
  readonly recommender?: string;
  readonly itemVectors?: string;
  readonly itemIds?: string;
}

/** Fields that were asked for, and by what, in the order in which they win. */
export type Asked = { values: Partial<Config>; source: string }[];

/**
 * What was asked for by --config, --ablation and the flags, and the recommender that was named, if one was. Throws
 * UserError for a flag that contradicts the ablation.
 */
export async function askedFor(
  flags: ConfigFlags,
): Promise<{ asked: Asked; given: GivenRecommender | null }> {
  const given = await givenRecommender(flags);
  return { asked: await askedFields({ ...flags, recommender: given?.name }), given };
}

async function askedFields(flags: ConfigFlags): Promise<Asked> {
  const asked: Asked = [];
  if (flags.config) {
    const values = await readConfigFile(flags.config);
    const checked = overlay(presetConfig("paper"), values, flags.config);
    const names = Object.keys(values) as ConfigName[];
    asked.push({
      values: Object.fromEntries(names.map((name) => [name, checked[name]])),
      source: flags.config,
    });
  }
  const fromFlags = configFromFlags(flags);
  if (flags.ablation === undefined) return [...asked, ...fromFlags];
  const { fields } = ablationNamed(flags.ablation, "--ablation");
  const ablated = { values: fields, source: `--ablation ${flags.ablation}` };
  for (const { values, source } of fromFlags) {
    for (const name of Object.keys(values) as ConfigName[]) {
      if (!(name in fields) || fields[name] === values[name]) continue;
      throw new UserError(
        `${source} is ${values[name]}, but --ablation ${flags.ablation} sets ${name} to ${fields[name]}; leave one of them out`,
      );
    }
  }
  return [...asked, ablated, ...fromFlags];
}

/** A base with what was asked for laid over it. Throws UserError. */
export function withAsked(base: Config, asked: Asked): Config {
  let config = base;
  for (const { values, source } of asked) config = overlay(config, values, source);
  return checkConfig(config, "the configuration");
}
