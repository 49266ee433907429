import { UserError } from "../files/user-error.ts";

/** The fields of a model's config.json, read with checks; every error names the file and the field. */
export class ConfigFields {
  constructor(
    /** For messages. */
    readonly path: string,
    private readonly json: Readonly<Record<string, unknown>>,
    /** Of a nested object: what comes before its fields in messages. */
    private readonly within = "",
  ) {}

  /** A field as it stands; undefined when it is missing. */
  raw(field: string): unknown {
    return this.json[field];
  }

  /** Throws UserError: the field's value is not what was expected. */
  fail(field: string, expected: string): never {
    const value = this.json[field];
    const found = value === undefined ? "it is missing" : `found ${JSON.stringify(value)}`;
    throw new UserError(`${this.path}: field ${this.within}${field}: expected ${expected}, ${found}`);
  }

  /** A whole number of at least 1. Missing and null give the fallback, where there is one. */
  count(field: string, fallback?: number): number {
    const value = this.json[field] ?? fallback;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1) {
      return this.fail(field, "a whole number of at least 1");
    }
    return value;
  }

  /** As `count`, but null stays null: "none" where the field says so. */
  countOrNull(field: string, fallback: number | null): number | null {
    const value = this.json[field];
    if (value === null || (value === undefined && fallback === null)) return null;
    return this.count(field, fallback ?? undefined);
  }

  /** A positive number. */
  positive(field: string, fallback?: number): number {
    const value = this.json[field] ?? fallback;
    if (typeof value !== "number" || !Number.isFinite(value) || value <= 0) {
      return this.fail(field, "a positive number");
    }
    return value;
  }

  /** True or false. */
  flag(field: string, fallback: boolean): boolean {
    const value = this.json[field] ?? fallback;
    return typeof value === "boolean" ? value : this.fail(field, "true or false");
  }

  /** The fields of a nested object, or null when it is missing or null. */
  nested(field: string): ConfigFields | null {
    const value = this.json[field];
    if (value == null) return null;
    if (typeof value !== "object" || Array.isArray(value)) this.fail(field, "an object, or null");
    return new ConfigFields(this.path, value as Record<string, unknown>, `${this.within}${field}.`);
  }

  /**
   * Refuses a variant that this program does not run: the field must be missing, null or `value`; `what` says what it
   * would stand for.
   */
  only(field: string, value: boolean | number | string, what: string): void {
    if ((this.json[field] ?? value) !== value) this.fail(field, `${JSON.stringify(value)} (${what})`);
  }
}
