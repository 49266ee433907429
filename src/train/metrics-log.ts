import { type FileHandle, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "../files/atomic.ts";

export const METRICS = "metrics.jsonl";

/**
 * metrics.jsonl of a run: one JSON object a line. Lines of updates carry `update`; lines of epochs `epoch` as well.
 * On resume, lines of updates that the checkpoint does not hold are dropped, so that no update stands twice.
 */
export class MetricsLog {
  private constructor(private readonly file: FileHandle) {}

  static async open(folder: string, fromUpdate: number): Promise<MetricsLog> {
    const path = join(folder, METRICS);
    let kept = "";
    try {
      for (const line of (await readFile(path, "utf8")).split("\n")) {
        if (isKept(line, fromUpdate)) kept += `${line}\n`;
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
    await writeFileAtomic(path, kept);
    return new MetricsLog(await open(path, "a"));
  }

  async write(row: Readonly<Record<string, unknown>>): Promise<void> {
    await this.file.appendFile(`${JSON.stringify(row)}\n`);
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

/** A line torn by a kill, or of an update after the checkpoint, goes. */
function isKept(line: string, fromUpdate: number): boolean {
  if (!line) return false;
  try {
    return (JSON.parse(line) as { update: number }).update <= fromUpdate;
  } catch {
    return false;
  }
}
