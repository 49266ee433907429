import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../files/user-error.ts";
import { PUBLISHED } from "./published.ts";

/** The backbone that comes with the program: its name and its folder in the repository. */
export const EMBEDDED = { name: "embedded", folder: "weights/shop-llama" };

/** Every name that `--backbone` takes. */
export const BACKBONE_NAMES: readonly string[] = [EMBEDDED.name, ...Object.keys(PUBLISHED)];

/** Where to look; tests replace these. */
export interface LocateOptions {
  /** The repository root. */
  root?: string;
  env?: Readonly<Record<string, string | undefined>>;
  home?: string;
}

/**
 * The directory of a backbone: `embedded` (weights/shop-llama of this repository), a name of published.ts
 * (weights/NAME, else the Hugging Face cache), or any directory with a config.json.
 *
 * @throws UserError that says where it looked and both ways to get the model.
 */
export function locateBackbone(nameOrDirectory: string, options: LocateOptions = {}): string {
  const found = findBackbone(nameOrDirectory, options);
  if (found !== null) return found;
  const { local, hub } = placesOf(nameOrDirectory, options);
  const { repositories, weights, gated } = PUBLISHED[nameOrDirectory];
  const [repository] = repositories;
  const download = `huggingface-cli download ${repository} --include "*.json" "${weights}" "*.txt" tokenizer.model`;
  const licence = gated
    ? `accept its licence at https://huggingface.co/${repository}, run "huggingface-cli login", then either `
    : "either ";
  throw new UserError(
    `backbone ${nameOrDirectory}: found neither in ${local} nor in the Hugging Face cache ${hub}; ` +
      `${licence}"${download}" (fills the cache) or "${download} --local-dir ${local}"`,
  );
}

/** As `locateBackbone`, but null for a published backbone that is not on this machine. */
export function findBackbone(nameOrDirectory: string, options: LocateOptions = {}): string | null {
  const { local, hub } = placesOf(nameOrDirectory, options);
  if (nameOrDirectory === EMBEDDED.name) {
    if (existsSync(join(local, "config.json"))) return local;
    throw new UserError(`${local}: the embedded backbone is missing; restore it with git, or train it again`);
  }
  const published = Object.hasOwn(PUBLISHED, nameOrDirectory) ? PUBLISHED[nameOrDirectory] : undefined;
  if (!published) return checkDirectory(nameOrDirectory);
  if (existsSync(join(local, "config.json"))) return local;
  for (const repository of published.repositories) {
    const cached = cachedSnapshot(hub, repository);
    if (cached) return cached;
  }
  return null;
}

/** Where a named backbone may lie: in the repository, and the folder of downloaded models. */
function placesOf(name: string, options: LocateOptions): { local: string; hub: string } {
  const folder = name === EMBEDDED.name ? EMBEDDED.folder : join("weights", name);
  return {
    local: join(options.root ?? repositoryRoot(), folder),
    hub: hubFolder(options.env ?? process.env, options.home ?? homedir()),
  };
}

function checkDirectory(directory: string): string {
  const status = statSync(directory, { throwIfNoEntry: false });
  if (!status?.isDirectory()) {
    const what = status ? "is a file" : "no such directory";
    throw new UserError(
      `backbone ${directory}: ${what}; expected one of ${BACKBONE_NAMES.join(", ")}, or a Hugging Face model directory`,
    );
  }
  if (!existsSync(join(directory, "config.json"))) {
    throw new UserError(
      `backbone ${directory}: no config.json in it; expected a Hugging Face model directory`,
    );
  }
  return resolve(directory);
}

/** The folder of downloaded models, by the rules of huggingface_hub. */
function hubFolder(env: Readonly<Record<string, string | undefined>>, home: string): string {
  const direct = env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE;
  if (direct) return expandHome(direct, home);
  if (env.HF_HOME) return join(expandHome(env.HF_HOME, home), "hub");
  return join(env.XDG_CACHE_HOME || join(home, ".cache"), "huggingface", "hub");
}

/** The snapshot that refs/main names, or the only one there is. Null when none holds a config.json. */
function cachedSnapshot(hub: string, repository: string): string | null {
  const folder = join(hub, `models--${repository.replaceAll("/", "--")}`);
  const snapshots = join(folder, "snapshots");
  const main = join(folder, "refs", "main");
  let commits: string[] = [];
  if (existsSync(main)) commits = [readFileSync(main, "utf8").trim()];
  else if (existsSync(snapshots)) commits = readdirSync(snapshots);
  const found = commits.map((commit) => join(snapshots, commit));
  return (found.length === 1 && existsSync(join(found[0], "config.json")) && found[0]) || null;
}

function expandHome(path: string, home: string): string {
  return path === "~" || path.startsWith("~/") ? join(home, path.slice(1)) : path;
}

/** The folder above this module that holds the project's package.json (the module may be a source or a bundle). */
export function repositoryRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!isProject(folder)) {
    const parent = dirname(folder);
    if (parent === folder) throw new Error("package.json of laser-webgpu is not above the program");
    folder = parent;
  }
  return folder;
}

function isProject(folder: string): boolean {
  const path = join(folder, "package.json");
  return (
    existsSync(path) && (JSON.parse(readFileSync(path, "utf8")) as { name?: string }).name === "laser-webgpu"
  );
}
