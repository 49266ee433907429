// What every reader produces: interactions as compact columns (16 bytes a row), each id stored once, and the texts of
// those items that somebody interacted with. Nothing else of the source files stays in memory.
import { UserError } from "../files/user-error.ts";
import { cleanLabel, cleanTitle } from "./clean.ts";
import { ownCopy, type TextFile } from "./text-file.ts";

/** The file formats that can be read. */
export type Format = "amazon-2018" | "recbole" | "csv" | "jsonl";

/** How the reading of one file went. */
export interface FileReport {
  path: string;
  /** sha256 (hex) of the file as it is on disk. */
  sha256: string;
  /** Records, good and bad; header and blank lines do not count. */
  records: number;
  malformed: number;
  /** "line N: what is wrong" of the first malformed record. */
  firstMalformed?: string;
}

/** The text of an item. `problem` says why it has no title, then `title` is "". */
export interface CatalogItem {
  title: string;
  brand?: string;
  category?: string;
  problem?: "missing" | "broken";
}

/** Everything read, before preparation. Rows are in the source's order; `users` and `items` index the id lists. */
export interface RawData {
  name: string;
  format: Format;
  userIds: readonly string[];
  itemIds: readonly string[];
  users: Uint32Array;
  items: Uint32Array;
  /** In the source's unit; only their order matters. */
  times: Float64Array;
  /** By item index; undefined where the item file has no record of the item. */
  catalog: readonly (CatalogItem | undefined)[];
  /** Records of the item file about items that nobody interacted with. */
  unusedItems: number;
  files: FileReport[];
}

/** Numbers ids in the order of their first appearance. */
export class IdTable {
  readonly ids: string[] = [];
  readonly #indexes = new Map<string, number>();

  /** The number of an id, a new one if it is new. */
  add(id: string): number {
    const known = this.#indexes.get(id);
    if (known !== undefined) return known;
    const own = ownCopy(id);
    this.#indexes.set(own, this.ids.length);
    return this.ids.push(own) - 1;
  }

  /** The number of an id, or undefined. */
  find(id: string): number | undefined {
    return this.#indexes.get(id);
  }
}

/** Columns of interactions that grow as rows come in. */
export class InteractionLog {
  readonly users = new IdTable();
  readonly items = new IdTable();
  #userColumn = new Uint32Array(1024);
  #itemColumn = new Uint32Array(1024);
  #timeColumn = new Float64Array(1024);
  #rows = 0;

  add(user: string, item: string, time: number): void {
    if (this.#rows === this.#userColumn.length) this.#grow();
    this.#userColumn[this.#rows] = this.users.add(user);
    this.#itemColumn[this.#rows] = this.items.add(item);
    this.#timeColumn[this.#rows] = time;
    this.#rows++;
  }

  columns(): Pick<RawData, "userIds" | "itemIds" | "users" | "items" | "times"> {
    return {
      userIds: this.users.ids,
      itemIds: this.items.ids,
      users: this.#userColumn.subarray(0, this.#rows),
      items: this.#itemColumn.subarray(0, this.#rows),
      times: this.#timeColumn.subarray(0, this.#rows),
    };
  }

  #grow(): void {
    const capacity = this.#rows * 2;
    const users = new Uint32Array(capacity);
    users.set(this.#userColumn);
    this.#userColumn = users;
    const items = new Uint32Array(capacity);
    items.set(this.#itemColumn);
    this.#itemColumn = items;
    const times = new Float64Array(capacity);
    times.set(this.#timeColumn);
    this.#timeColumn = times;
  }
}

/** Texts of the items of a log. Of several records of one item, the first with a usable title wins. */
export class Catalog {
  readonly items: (CatalogItem | undefined)[] = [];
  unused = 0;
  readonly #log: InteractionLog;

  constructor(log: InteractionLog) {
    this.#log = log;
    this.items.length = log.items.ids.length;
  }

  /** Values as they are in the file: cleaned here. `category` is already chosen from the file's list. */
  add(id: string, title: unknown, brand: unknown, category: unknown): void {
    const index = this.#log.items.find(id);
    if (index === undefined) {
      this.unused++;
      return;
    }
    const known = this.items[index];
    if (known && !known.problem) return;
    const clean = cleanTitle(title);
    if ("problem" in clean) {
      if (!known) this.items[index] = { title: "", problem: clean.problem };
      return;
    }
    const item: CatalogItem = { title: ownCopy(clean.title) };
    const cleanBrand = cleanLabel(brand);
    if (cleanBrand) item.brand = ownCopy(cleanBrand);
    const cleanCategory = cleanLabel(category);
    if (cleanCategory) item.category = ownCopy(cleanCategory);
    this.items[index] = item;
  }
}

/** Up to this many malformed records are tolerated in any file, and up to this share in a large one. */
const TOLERATED_RECORDS = 10;
const TOLERATED_SHARE = 0.01;

/** Counts the records of one file; too many malformed ones are an error, not a silently smaller dataset. */
export class RecordCounter {
  readonly #file: TextFile;
  #records = 0;
  #malformed = 0;
  #first: string | undefined;

  constructor(file: TextFile) {
    this.#file = file;
  }

  good(): void {
    this.#records++;
  }

  malformed(line: number, reason: string): void {
    this.#records++;
    this.#malformed++;
    this.#first ??= `line ${line}: ${reason}`;
  }

  /** Throws a UserError naming the first malformed line when there are too many, or when nothing could be read. */
  finish(): FileReport {
    const { path, sha256 } = this.#file;
    if (this.#records === 0) throw new UserError(`${path} holds no records`);
    const tooMany = this.#malformed > TOLERATED_RECORDS && this.#malformed > TOLERATED_SHARE * this.#records;
    if (tooMany || this.#malformed === this.#records) {
      throw new UserError(
        `${path}: ${this.#malformed} of ${this.#records} records are malformed, first at ${this.#first}; repair the file or download it again`,
      );
    }
    const report: FileReport = { path, sha256, records: this.#records, malformed: this.#malformed };
    if (this.#first) report.firstMalformed = this.#first;
    return report;
  }
}

/** An id from a record: strings and whole numbers that are not empty; undefined for anything else. */
export function idOf(value: unknown): string | undefined {
  if (typeof value === "number" && Number.isFinite(value)) return String(value);
  if (typeof value !== "string") return undefined;
  return value.trim() || undefined;
}

/** A time from a record: a number, its digits, or a date that `Date.parse` reads (then in seconds); or undefined. */
export function timeOf(value: unknown): number | undefined {
  if (typeof value === "number") return Number.isFinite(value) ? value : undefined;
  if (typeof value !== "string" || !value.trim()) return undefined;
  const number = Number(value);
  if (Number.isFinite(number)) return number;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : date / 1000;
}
