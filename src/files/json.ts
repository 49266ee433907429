import { readFile } from "node:fs/promises";
import { fileError } from "./atomic.ts";
import { UserError } from "./user-error.ts";

/**
 * Reads a JSON file that must hold an object.
 *
 * @throws UserError naming the file: missing, unreadable, malformed JSON, or not an object.
 */
export async function readJsonObject(path: string): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw fileError("read", path, error);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const reason = (error as Error).message.replaceAll("\n", "\\n");
    throw new UserError(`${path}: not valid JSON (${reason}); correct it or download it again`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new UserError(`${path}: expected a JSON object; correct it or download it again`);
  }
  return value as Record<string, unknown>;
}
