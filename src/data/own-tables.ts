// People's own data, as a pair of CSV or JSONL files (plain or gzip):
//
//   interactions   user, item, timestamp [, rating]     one row an interaction
//   items          item, title [, brand, category]      one row an item
//
// timestamp is a number in any unit or a date such as 2024-05-31T10:00:00Z. Other columns are ignored, also rating
// (every interaction counts). user_id and item_id are taken for user and item. In JSONL, category may be a list from
// general to special: the last is taken.
import { pipeline } from "node:stream";
import { type CsvError, parse } from "csv-parse";
import { UserError } from "../files/user-error.ts";
import { cleanLabel, cleanTitle, lastCategory } from "./clean.ts";
import type { Item } from "./dataset.ts";
import { type JsonRecord, readJsonLines } from "./json-lines.ts";
import {
  Catalog,
  type FileReport,
  InteractionLog,
  idOf,
  type RawData,
  RecordCounter,
  timeOf,
} from "./raw.ts";
import { type ReadProgress, TextFile } from "./text-file.ts";

/** Reads a pair; each file may be CSV or JSONL, told apart by whether its first line starts with "{". */
export async function readOwnTables(
  interactionsPath: string,
  itemsPath: string,
  name: string,
  onProgress?: ReadProgress,
): Promise<RawData> {
  const log = new InteractionLog();
  const interactions = await readRecords(
    interactionsPath,
    ["user", "item", "timestamp"],
    onProgress,
    (record) => {
      const user = idOf(record.user ?? record.user_id);
      const item = idOf(record.item ?? record.item_id);
      const time = timeOf(record.timestamp);
      if (!user) return "no user";
      if (!item) return "no item";
      if (time === undefined)
        return `timestamp ${JSON.stringify(record.timestamp)} is neither a number nor a date`;
      log.add(user, item, time);
      return undefined;
    },
  );
  const catalog = new Catalog(log);
  const items = await readRecords(itemsPath, ["item", "title"], onProgress, (record) => {
    const item = idOf(record.item ?? record.item_id);
    if (!item) return "no item";
    const category = Array.isArray(record.category) ? lastCategory(record.category) : record.category;
    catalog.add(item, record.title, record.brand, category);
    return undefined;
  });
  return {
    name,
    format: interactions.json ? "jsonl" : "csv",
    ...log.columns(),
    catalog: catalog.items,
    unusedItems: catalog.unused,
    files: [interactions.report, items.report],
  };
}

/**
 * Reads an item file alone (CSV or JSONL: item, title [, brand, category]), for items that join a trained run. Unlike
 * in a dataset every record counts: throws a UserError naming the first that is malformed or has no usable title.
 */
export async function readItemTable(path: string): Promise<Item[]> {
  const items: Item[] = [];
  const { report } = await readRecords(path, ["item", "title"], undefined, (record) => {
    const id = idOf(record.item ?? record.item_id);
    if (!id) return "no item";
    const clean = cleanTitle(record.title);
    if ("problem" in clean) return `item ${id}: its title is ${clean.problem}`;
    const brand = cleanLabel(record.brand);
    const { category: raw } = record;
    const category = Array.isArray(raw) ? lastCategory(raw) : cleanLabel(raw);
    items.push({ id, title: clean.title, ...(brand && { brand }), ...(category && { category }) });
    return undefined;
  });
  if (report.malformed) {
    throw new UserError(
      `${path}: ${report.firstMalformed}; every item needs an id and a title: repair the file`,
    );
  }
  return items;
}

type Visit = (record: JsonRecord) => string | undefined;

async function readRecords(
  path: string,
  columns: string[],
  onProgress: ReadProgress | undefined,
  visit: Visit,
): Promise<{ report: FileReport; json: boolean }> {
  const json = (await new TextFile(path).firstLine()).startsWith("{");
  const file = new TextFile(path, onProgress);
  const counter = new RecordCounter(file);
  if (json) await readJsonLines(file, counter, visit);
  else await readCsv(file, counter, columns, visit);
  return { report: counter.finish(), json };
}

async function readCsv(
  file: TextFile,
  counter: RecordCounter,
  required: string[],
  visit: Visit,
): Promise<void> {
  const parser = parse({
    bom: true,
    columns: (header: string[]) => checkHeader(file.path, header, required),
    info: true,
    skip_empty_lines: true,
    // Broken records are skipped and counted; a quote that never closes ends here instead of filling the memory.
    skip_records_with_error: true,
    max_record_size: 2 ** 20,
    on_skip: (error: CsvError | undefined): undefined => {
      const line = error && typeof error.lines === "number" ? error.lines : 0;
      counter.malformed(line, error?.message.replace(/\s+/g, " ") ?? "broken record");
    },
  });
  // The callback is required; the error itself also reaches the loop below.
  pipeline(file.bytes(), parser, () => {});
  try {
    for await (const row of parser) {
      const { record, info } = row as { record: JsonRecord; info: { lines: number } };
      const problem = visit(record);
      if (problem) counter.malformed(info.lines, problem);
      else counter.good();
    }
  } catch (error) {
    const code = error instanceof Error ? String((error as NodeJS.ErrnoException).code ?? "") : "";
    if (!code.startsWith("CSV_")) throw error;
    throw new UserError(`${file.path}: ${(error as Error).message.replace(/\s+/g, " ")}; repair the file`);
  }
}

function checkHeader(path: string, header: string[], required: string[]): string[] {
  const names = header.map((column) => column.trim());
  for (const column of required) {
    const idColumn = column === "user" || column === "item" ? `${column}_id` : column;
    if (names.includes(column) || names.includes(idColumn)) continue;
    throw new UserError(
      `${path}: no column ${column}; expected a header with ${required.join(",")}, found ${names.join(",").slice(0, 80)}`,
    );
  }
  return names;
}
