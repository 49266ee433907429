// RecBole's atomic files: tab-separated, the header names and types the columns (user_id:token, timestamp:float).
import { UserError } from "../files/user-error.ts";
import { lastCategory } from "./clean.ts";
import { Catalog, InteractionLog, idOf, type RawData, RecordCounter, timeOf } from "./raw.ts";
import { type ReadProgress, TextFile } from "./text-file.ts";

const TITLE_COLUMNS = ["title", "movie_title", "name", "item_name"];
const BRAND_COLUMNS = ["brand", "store"];
const CATEGORY_COLUMNS = ["categories", "category", "class", "genre"];

/** Reads NAME.inter and NAME.item. Without a timestamp column, the order of the rows is the order in time. */
export async function readRecBole(
  interPath: string,
  itemPath: string,
  name: string,
  onProgress?: ReadProgress,
): Promise<RawData> {
  const log = new InteractionLog();
  const interReport = await readTable(
    new TextFile(interPath, onProgress),
    ["user_id", "item_id"],
    (columns) => {
      const user = columns.indexOf("user_id");
      const item = columns.indexOf("item_id");
      const timestamp = columns.indexOf("timestamp");
      let row = 0;
      return (fields) => {
        const userId = idOf(fields[user]);
        const itemId = idOf(fields[item]);
        const time = timestamp < 0 ? row++ : timeOf(fields[timestamp]);
        if (!userId) return "no user_id";
        if (!itemId) return "no item_id";
        if (time === undefined) return `timestamp ${JSON.stringify(fields[timestamp])} is not a number`;
        log.add(userId, itemId, time);
        return undefined;
      };
    },
  );

  const catalog = new Catalog(log);
  const itemReport = await readTable(new TextFile(itemPath, onProgress), ["item_id"], (columns) => {
    const find = (names: string[]): number => columns.findIndex((column) => names.includes(column));
    const [title, brand, category] = [find(TITLE_COLUMNS), find(BRAND_COLUMNS), find(CATEGORY_COLUMNS)];
    if (title < 0) {
      throw new UserError(
        `${itemPath}: expected a title column (${TITLE_COLUMNS.join(", ")}), found ${columns.join(", ")}`,
      );
    }
    const item = columns.indexOf("item_id");
    return (fields) => {
      const itemId = idOf(fields[item]);
      if (!itemId) return "no item_id";
      catalog.add(itemId, fields[title], fields[brand], splitCategories(fields[category]));
      return undefined;
    };
  });
  return {
    name,
    format: "recbole",
    ...log.columns(),
    catalog: catalog.items,
    unusedItems: catalog.unused,
    files: [interReport, itemReport],
  };
}

/**
 * The category of a categories field. Published files write lists in three ways: 'A', 'B' in quotes; A,B with no
 * space after the comma (names hold commas themselves: "Tapes, Adhesives & Sealants"); and words apart by spaces
 * (MovieLens genres), which are kept whole, since they are no path from general to special.
 */
function splitCategories(field: string | undefined): string | undefined {
  if (!field) return undefined;
  const quoted = /^\[?\s*'(.*)'\s*\]?$/.exec(field);
  return lastCategory(quoted ? quoted[1].split(/'\s*,\s*'/) : field.split(/,(?!\s)/));
}

type RowReader = (fields: string[]) => string | undefined;

async function readTable(file: TextFile, required: string[], start: (columns: string[]) => RowReader) {
  const counter = new RecordCounter(file);
  let columns: string[] = [];
  let read: RowReader | undefined;
  await file.lines((line, number) => {
    if (!line.trim()) return;
    const fields = line.split("\t");
    if (!read) {
      columns = fields.map((field) => field.trim().split(":")[0]);
      const missing = required.filter((column) => !columns.includes(column));
      if (missing.length) {
        throw new UserError(
          `${file.path}: line ${number}: expected a header with ${required.map((column) => `${column}:token`).join(" and ")} apart by tabs, found ${JSON.stringify(line.slice(0, 80))}`,
        );
      }
      read = start(columns);
      return;
    }
    const problem =
      fields.length === columns.length
        ? read(fields)
        : `${fields.length} fields, and the header has ${columns.length}`;
    if (problem) counter.malformed(number, problem);
    else counter.good();
  });
  return counter.finish();
}
