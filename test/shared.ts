import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/**
 * Path of a file in the optional `shared` folder beside the repository (real data, weights, tokenizers), or null
 * with a loud line when it is not there. Tests must not pass silently because their data is missing.
 */
export function sharedPath(relative: string): string | null {
  // Compiled tests live in dist/test, two levels below the repository root.
  const path = fileURLToPath(new URL(`../../../shared/${relative}`, import.meta.url));
  if (existsSync(path)) return path;
  console.log(
    `SKIPPED: ${relative} is not beside this checkout (../shared); the checks that need it did not run`,
  );
  return null;
}

/** Path of a file of this repository, from a compiled test in dist/test. */
export function repositoryPath(relative: string): string {
  return fileURLToPath(new URL(`../../${relative}`, import.meta.url));
}
