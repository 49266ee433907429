import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The repository's root: the bundler may put this module in dist/test or in dist/test/chunks. */
function repositoryRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
  return folder;
}

/**
 * Path of a file in the optional `shared` folder beside the repository (real data, weights, tokenizers), or null
 * with a loud line when it is not there. Tests must not pass silently because their data is missing.
 */
export function sharedPath(relative: string): string | null {
  const path = join(repositoryRoot(), "..", "shared", relative);
  if (existsSync(path)) return path;
  console.log(
    `SKIPPED: ${relative} is not beside this checkout (../shared); the checks that need it did not run`,
  );
  return null;
}

/** Path of a file of this repository. */
export function repositoryPath(relative: string): string {
  return join(repositoryRoot(), relative);
}
