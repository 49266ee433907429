import { type Command, Option } from "commander";
import { UserError } from "../files/user-error.ts";
import { ABLATIONS } from "../train/ablations.ts";
import { type Config, type ConfigName, defaultConfig, FIELDS, overlay } from "../train/config.ts";
import type { Field } from "../train/fields.ts";

/** A parser of whole numbers from `least` on. Throws UserError naming the flag. */
export function wholeNumber(flag: string, least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isSafeInteger(value) || value < least) {
      throw new UserError(`${flag} ${text}: expected a whole number from ${least}`);
    }
    return value;
  };
}

/** A parser of numbers in a range. Throws UserError naming the flag. */
export function realNumber(flag: string, least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !(value >= least && value <= most)) {
      const range = most === Number.POSITIVE_INFINITY ? `from ${least}` : `from ${least} to ${most}`;
      throw new UserError(`${flag} ${text}: expected a number ${range}`);
    }
    return value;
  };
}

/** The flag of a field: mformerWidth is --mformer-width. */
export function flagOf(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** What a field accepts, as the help shows it. */
export function valueHint(field: Field): string {
  switch (field.kind) {
    case "choice":
      return field.choices.join("|");
    case "integer":
      return "n";
    case "number":
      return "x";
    case "number-or-off":
      return "x|off";
    case "flag":
      return "true|false";
  }
}

/** A default as text. */
export function defaultText(field: Field): string {
  return field.default === null ? "off" : String(field.default);
}

const table = Object.entries(FIELDS) as [ConfigName, Field][];

/**
 * Adds one flag for every field of the configuration that the command has no flag of its own for. No flag has a default
 * here: only what was given counts.
 */
export function addConfigFlags(command: Command): Command {
  for (const [name, field] of table) {
    if (command.options.some(({ long }) => long === flagOf(name))) continue;
    const help = `${field.help} (default: ${defaultText(field)})`;
    command.addOption(
      new Option(`${flagOf(name)} <${valueHint(field)}>`, help).helpGroup("Hyper-parameters:"),
    );
  }
  return command;
}

/** Fields as the flags that set them: "--experts 1 --active-experts 1". */
export function asFlags(values: Partial<Config>): string {
  return Object.entries(values)
    .map(([name, value]) => `${flagOf(name)} ${value}`)
    .join(" ");
}

/** One line an ablation: its name, the paper's row and the flags it stands for. */
export function ablationLines(): string[] {
  return ABLATIONS.map(
    ({ name, table, row, fields }) =>
      `  ${name.padEnd(18)} ${`${row} (${table})`.padEnd(47)} ${asFlags(fields)}`,
  );
}

/** The fields that flags name, validated. Throws UserError naming the flag. */
export function configFromFlags(
  options: Readonly<Record<string, unknown>>,
): { values: Partial<Config>; source: string }[] {
  return table.flatMap(([name, field]) => {
    const text = options[name];
    if (typeof text !== "string") return [];
    const source = flagOf(name);
    const value = overlay(defaultConfig(), { [name]: parseValue(field, text) }, source)[name];
    return [{ values: { [name]: value } as Partial<Config>, source }];
  });
}

/** The value of a flag's text; what cannot be parsed stays text, for the validation to name. */
export function parseValue(field: Field, text: string): unknown {
  if (field.kind === "flag") return text === "true" ? true : text === "false" ? false : text;
  if (field.kind === "choice" || text.trim() === "" || Number.isNaN(Number(text))) return text;
  return Number(text);
}

/**
 * A field by its name or its flag's, and the parser of its values. Throws UserError naming `source` for what is neither
 * and for values that the field does not take.
 */
export function fieldNamed(
  name: string,
  source: string,
): { field: ConfigName; parse: (text: string) => Config[ConfigName] } {
  const found = table.find(([field]) => field === name || flagOf(field) === `--${name.replace(/^--/, "")}`);
  // An unknown name is refused with the nearest there is.
  const field = found ? found[0] : (name as ConfigName);
  const parse = (text: string) =>
    overlay(defaultConfig(), { [field]: found ? parseValue(found[1], text) : text }, source)[field];
  if (!found) parse("");
  return { field, parse };
}
