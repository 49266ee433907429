import { type LoadedTensor, readSafetensors } from "../../files/safetensors-whole.ts";
import { UserError } from "../../files/user-error.ts";

/** A shape as docs/dumps.md writes it: whole numbers, or names of dimensions that the first tensor with them settles. */
export type ShapePattern = readonly (number | string)[];

/**
 * A reference dump in memory (format: docs/dumps.md). Every access checks dtype and shape, and remembers the name as
 * an input of the case: what is left over is an output, or a mistake.
 */
export class Dump {
  private readonly inputs = new Set<string>();
  private readonly dimensions = new Map<string, number>();

  constructor(
    readonly path: string,
    readonly kind: string,
    private readonly params: Readonly<Record<string, unknown>>,
    private readonly tensors: ReadonlyMap<string, LoadedTensor>,
  ) {}

  /** @throws UserError for a damaged file, or one without the metadata of a dump. */
  static async read(path: string): Promise<Dump> {
    const { tensors, metadata } = await readSafetensors(path);
    const kind = metadata.get("kind");
    if (kind === undefined) {
      throw new UserError(
        `${path}: __metadata__ has no field kind; expected a reference dump (docs/dumps.md)`,
      );
    }
    let params: unknown;
    try {
      params = JSON.parse(metadata.get("params") ?? "{}");
    } catch {
      params = null;
    }
    if (typeof params !== "object" || params === null || Array.isArray(params)) {
      throw new UserError(`${path}: __metadata__ field params is not a JSON object; see docs/dumps.md`);
    }
    return new Dump(path, kind, params as Record<string, unknown>, tensors);
  }

  /** A mistake in this file, as an error that names it. */
  error(message: string): UserError {
    return new UserError(`${this.path}: ${message}`);
  }

  has(name: string): boolean {
    return this.tensors.has(name);
  }

  /** Whether any of these outputs is in the file. */
  wants(...names: readonly string[]): boolean {
    return names.some((name) => this.tensors.has(name));
  }

  /** Names of tensors that nobody has read as an input. */
  *remaining(): Generator<string> {
    for (const name of this.tensors.keys()) if (!this.inputs.has(name)) yield name;
  }

  /** An F32 input. */
  floats(name: string, shape: ShapePattern): Float32Array<ArrayBuffer> {
    return this.input(name, "F32", shape) as Float32Array<ArrayBuffer>;
  }

  /** An F32 input that only these outputs need: null when neither it nor any of them is in the file. */
  floatsFor(outputs: readonly string[], name: string, shape: ShapePattern): Float32Array<ArrayBuffer> | null {
    return this.has(name) || this.wants(...outputs) ? this.floats(name, shape) : null;
  }

  /** An I32 input of ids or counts, all of which must lie in [least, below). */
  ids(name: string, shape: ShapePattern, below: number, least = 0): Int32Array<ArrayBuffer> {
    const values = this.input(name, "I32", shape) as Int32Array<ArrayBuffer>;
    const bad = values.findIndex((value) => value < least || value >= below);
    if (bad >= 0) {
      throw this.error(`tensor ${name}, element ${bad} is ${values[bad]}, expected ${least} to ${below - 1}`);
    }
    return values;
  }

  /** An I32 input of sequence lengths, at least 1 each, that must add up to `total`. */
  lengths(name: string, shape: ShapePattern, total: number): number[] {
    const lengths = [...this.ids(name, shape, 2 ** 31, 1)];
    const sum = lengths.reduce((a, b) => a + b, 0);
    if (sum !== total) throw this.error(`tensor ${name} adds up to ${sum}, expected ${total}`);
    return lengths;
  }

  /** The shape of an input, where the kind leaves it open. */
  shapeOf(name: string): readonly number[] {
    const tensor = this.tensors.get(name);
    if (!tensor) throw this.error(`input ${name} of kind ${this.kind} is missing`);
    return tensor.shape;
  }

  private input(name: string, dtype: "F32" | "I32", shape: ShapePattern): LoadedTensor["data"] {
    const tensor = this.tensors.get(name);
    if (!tensor) {
      throw this.error(`input ${name} of kind ${this.kind} is missing; expected shape ${this.show(shape)}`);
    }
    this.inputs.add(name);
    if (tensor.dtype !== dtype) throw this.error(`tensor ${name} is ${tensor.dtype}, expected ${dtype}`);
    this.check(name, tensor.shape, shape);
    return tensor.data;
  }

  /** The values of an output, after a check of its shape. F32 or I32. */
  expected(name: string, shape: ShapePattern): Float32Array | Int32Array {
    const { dtype, shape: found, data } = this.tensors.get(name)!;
    if (dtype !== "F32" && dtype !== "I32") {
      throw this.error(`tensor ${name} is ${dtype}, expected F32 or I32`);
    }
    this.check(name, found, shape);
    return data as Float32Array | Int32Array;
  }

  private check(name: string, found: readonly number[], pattern: ShapePattern): void {
    const wrong = () =>
      this.error(`tensor ${name} has shape [${found.join(", ")}], expected ${this.show(pattern)}`);
    if (found.length !== pattern.length) throw wrong();
    pattern.forEach((extent, axis) => {
      const known = typeof extent === "number" ? extent : this.dimensions.get(extent);
      if (known === undefined) this.dimensions.set(extent as string, found[axis]);
      else if (known !== found[axis]) throw wrong();
    });
  }

  private show(pattern: ShapePattern): string {
    const extents = pattern.map((extent) => {
      const known = typeof extent === "number" ? extent : this.dimensions.get(extent);
      return known === undefined || known === extent ? extent : `${extent} = ${known}`;
    });
    return `[${extents.join(", ")}]`;
  }

  /** The extent of a named dimension that a tensor read before has settled. */
  size(dimension: string): number {
    const extent = this.dimensions.get(dimension);
    if (extent === undefined) throw new Error(`dimension ${dimension} of ${this.kind} is not settled yet`);
    return extent;
  }

  /** A parameter that must be a finite number. */
  number(name: string): number {
    const value = this.params[name];
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw this.badParam(name, "a number");
  }

  /** A parameter that must be a whole number of at least `least`. */
  count(name: string, least = 1): number {
    const value = this.params[name];
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= least) return value;
    throw this.badParam(name, `a whole number of at least ${least}`);
  }

  /** A parameter that must be true or false; `fallback` is what it means to leave it out, where that is allowed. */
  flag(name: string, fallback?: boolean): boolean {
    const value = this.params[name] ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.badParam(name, "true or false");
  }

  /** A parameter that must be one of some words; `fallback` as for `flag`. */
  choice<T extends string>(name: string, words: readonly T[], fallback?: T): T {
    const value = this.params[name] ?? fallback;
    const found = words.find((word) => word === value);
    if (found !== undefined) return found;
    throw this.badParam(name, words.map((word) => JSON.stringify(word)).join(" or "));
  }

  /** A parameter that must be a string. */
  text(name: string): string {
    const value = this.params[name];
    if (typeof value === "string") return value;
    throw this.badParam(name, "a string");
  }

  /** A parameter of any type, for those with a shape of their own. */
  param(name: string): unknown {
    return this.params[name];
  }

  /** The error for a parameter that is missing or not what was expected. */
  badParam(name: string, expected: string): UserError {
    const value = this.params[name];
    const found = value === undefined ? "it is missing" : `found ${JSON.stringify(value)}`;
    return this.error(`params field ${name} of kind ${this.kind}: expected ${expected}, ${found}`);
  }
}
