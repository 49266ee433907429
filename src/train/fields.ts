/** Tables of settings: what a field's value may be, its default and what it means. */
import { UserError } from "../files/user-error.ts";

interface NumberField {
  readonly kind: "integer" | "number";
  readonly default: number;
  readonly min: number;
  readonly max?: number;
  readonly help: string;
}
export interface OptionalNumberField {
  readonly kind: "number-or-off";
  readonly default: number | null;
  readonly min: number;
  readonly help: string;
}
interface ChoiceField<T extends string> {
  readonly kind: "choice";
  readonly default: T;
  readonly choices: readonly T[];
  readonly help: string;
}
interface FlagField {
  readonly kind: "flag";
  readonly default: boolean;
  readonly help: string;
}
export type Field = NumberField | OptionalNumberField | ChoiceField<string> | FlagField;

/** The type of a field's values. */
export type FieldValue<F> = F extends { kind: "choice"; default: infer D }
  ? F extends ChoiceField<infer T>
    ? T
    : D
  : F extends { kind: "number-or-off" }
    ? number | null
    : F extends { kind: "flag" }
      ? boolean
      : number;

export const integer = (value: number, min: number, help: string, max?: number): NumberField => ({
  kind: "integer",
  default: value,
  min,
  max,
  help,
});
export const number = (value: number, min: number, help: string, max?: number): NumberField => ({
  kind: "number",
  default: value,
  min,
  max,
  help,
});
export const choice = <T extends string>(value: T, choices: readonly T[], help: string): ChoiceField<T> => ({
  kind: "choice",
  default: value,
  choices,
  help,
});

export const flag = (value: boolean, help: string): FlagField => ({ kind: "flag", default: value, help });

/** Checks one value. Throws UserError naming `source` and the field. */
export function checkValue(field: Field, name: string, value: unknown, source: string): unknown {
  const fail = (expected: string): never => {
    const written = typeof value === "number" ? value : JSON.stringify(value);
    throw new UserError(`${source}: ${name} is ${written}; expected ${expected}`);
  };
  switch (field.kind) {
    case "flag":
      return typeof value === "boolean" ? value : fail("true or false");
    case "choice":
      return field.choices.includes(value as string) ? value : fail(`one of ${field.choices.join(", ")}`);
    case "number-or-off":
      if (value === null || value === "off") return null;
      return typeof value === "number" && Number.isFinite(value) && value > field.min
        ? value
        : fail(`a number above ${field.min}, or off`);
    default: {
      const range = `${field.kind === "integer" ? "a whole number" : "a number"} from ${field.min}${field.max === undefined ? "" : ` to ${field.max}`}`;
      const whole = field.kind === "number" || Number.isSafeInteger(value);
      if (typeof value !== "number" || !Number.isFinite(value) || !whole) return fail(range);
      return value < field.min || value > (field.max ?? Number.POSITIVE_INFINITY) ? fail(range) : value;
    }
  }
}
