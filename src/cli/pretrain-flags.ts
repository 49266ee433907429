import { type Command, Option } from "commander";
import { UserError } from "../files/user-error.ts";
import { checkValue, type Field } from "../train/fields.ts";
import {
  PRETRAIN_FIELDS,
  type PretrainSettings,
  pretrainSettings,
  TRAINED,
  trainedName,
} from "../train/recommender-settings.ts";
import { defaultText, flagOf, parseValue, valueHint } from "./flags.ts";

/** Every setting of some recommender, with the recommenders that have it. */
const settings = new Map<string, { readonly name: (typeof TRAINED)[number]; readonly field: Field }[]>();
for (const name of TRAINED) {
  for (const [setting, field] of Object.entries(PRETRAIN_FIELDS[name])) {
    settings.set(setting, [...(settings.get(setting) ?? []), { name, field }]);
  }
}

/** Adds --recommender, and one flag for every setting. */
export function addPretrainFlags(command: Command): Command {
  command.option("--recommender <name>", `what to train: ${TRAINED.join(" or ")} (default: ${TRAINED[0]})`);
  for (const [setting, owners] of settings) {
    const defaults = new Set(owners.map(({ field }) => defaultText(field)));
    const shown =
      defaults.size === 1
        ? [...defaults]
        : owners.map(({ name, field }) => `${defaultText(field)} for ${name}`);
    const only = owners.length < TRAINED.length ? `${owners.map(({ name }) => name).join(", ")}: ` : "";
    const [{ field }] = owners;
    const text = `${only}${field.help} (default: ${shown.join(", ")})`;
    command.addOption(new Option(`${flagOf(setting)} <${valueHint(field)}>`, text));
  }
  return command;
}

/** The defaults of the recommender asked for, with what the flags say. Throws UserError naming the flag. */
export function settingsFromFlags(options: Readonly<Record<string, unknown>>): PretrainSettings {
  const name = trainedName(options.recommender ?? TRAINED[0], "--recommender");
  const values: Record<string, unknown> = {};
  for (const [setting, owners] of settings) {
    const text = options[setting];
    if (typeof text !== "string") continue;
    const owner = owners.find((one) => one.name === name);
    if (!owner) {
      const others = owners.map((one) => one.name).join(" or ");
      throw new UserError(`${flagOf(setting)} is a setting of ${others}; ${name} has none of that name`);
    }
    values[setting] = checkValue(owner.field, setting, parseValue(owner.field, text), flagOf(setting));
  }
  return pretrainSettings(name, values, "laser pretrain");
}
