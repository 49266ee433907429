import { existsSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileError } from "../../files/atomic.ts";
import { UserError } from "../../files/user-error.ts";

/**
 * The dumps that paths mean: a file is itself; a directory, every .safetensors file in it and below, in the order of
 * their names, but not those of checkpoint directories (which hold a config.json).
 *
 * @throws UserError for a path that does not exist, or that holds no dump.
 */
export async function findDumps(paths: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const path of paths) {
    let isDirectory: boolean;
    try {
      isDirectory = (await stat(path)).isDirectory();
    } catch (error) {
      throw fileError("read", path, error);
    }
    if (!isDirectory) {
      found.push(path);
      continue;
    }
    const inside = await inDirectory(path);
    if (inside.length === 0) {
      const why = existsSync(join(path, "config.json"))
        ? "it is a checkpoint (it holds config.json), not a directory of dumps"
        : "no .safetensors file in it or below";
      throw new UserError(`${path}: ${why}; name a dump or a directory of dumps`);
    }
    found.push(...inside);
  }
  return found;
}

async function inDirectory(directory: string): Promise<string[]> {
  if (existsSync(join(directory, "config.json"))) return [];
  const entries = await readdir(directory, { withFileTypes: true });
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  const found: string[] = [];
  for (const entry of entries) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) found.push(...(await inDirectory(path)));
    else if (entry.name.endsWith(".safetensors")) found.push(path);
  }
  return found;
}
