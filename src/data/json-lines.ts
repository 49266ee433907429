// One JSON object a line: shared by the Amazon and the JSONL readers.
import type { RecordCounter } from "./raw.ts";
import type { TextFile } from "./text-file.ts";

export type JsonRecord = Record<string, unknown>;

/**
 * Calls `visit` with every record of the file. `visit` returns undefined when the record was good, else what is
 * wrong with it; that, and lines that are no JSON object, are counted. `refuse` sees every line that is no JSON
 * first, and may throw a better error.
 */
export async function readJsonLines(
  file: TextFile,
  counter: RecordCounter,
  visit: (record: JsonRecord) => string | undefined,
  refuse?: (line: string, number: number) => void,
): Promise<void> {
  await file.lines((line, number) => {
    if (!line.trim()) return;
    let record: unknown;
    try {
      record = JSON.parse(line);
    } catch (error) {
      refuse?.(line, number);
      counter.malformed(number, `not JSON (${error instanceof Error ? shorten(error.message) : error})`);
      return;
    }
    if (typeof record !== "object" || record === null || Array.isArray(record)) {
      counter.malformed(number, "not a JSON object");
      return;
    }
    const problem = visit(record as JsonRecord);
    if (problem) counter.malformed(number, problem);
    else counter.good();
  });
}

/** JSON.parse quotes the whole input in some messages. */
function shorten(message: string): string {
  const line = message.replace(/\s+/g, " ");
  return line.length > 100 ? `${line.slice(0, 97)}...` : line;
}
