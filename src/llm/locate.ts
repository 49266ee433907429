import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../files/user-error.ts";

/** Backbones that have a name: where they lie in the repository, and their Hugging Face repository if they have one. */
const NAMED: Record<string, { folder: string; repository?: string }> = {
  embedded: { folder: "weights/shop-llama" },
  llama2: { folder: "weights/llama2", repository: "meta-llama/Llama-2-7b-hf" },
};

/** Where to look; tests replace these. */
export interface LocateOptions {
  /** The repository root. */
  root?: string;
  env?: Readonly<Record<string, string | undefined>>;
  home?: string;
}

/**
 * The directory of a backbone: `embedded` (weights/shop-llama of this repository), `llama2` (weights/llama2, else the
 * Hugging Face cache), or any directory with a config.json.
 *
 * @throws UserError that says where it looked and how to get the model.
 */
export function locateBackbone(nameOrDirectory: string, options: LocateOptions = {}): string {
  const root = options.root ?? repositoryRoot();
  const named = Object.hasOwn(NAMED, nameOrDirectory) ? NAMED[nameOrDirectory] : undefined;
  if (!named) return checkDirectory(nameOrDirectory);

  const local = join(root, named.folder);
  if (existsSync(join(local, "config.json"))) return local;
  if (!named.repository) {
    throw new UserError(`${local}: the embedded backbone is missing; restore it with git, or train it again`);
  }
  const hub = hubFolder(options.env ?? process.env, options.home ?? homedir());
  const cached = cachedSnapshot(hub, named.repository);
  if (cached) return cached;
  const files = `--include "*.json" "*.safetensors" tokenizer.model`;
  const download = `huggingface-cli download ${named.repository} ${files}`;
  throw new UserError(
    `backbone ${nameOrDirectory}: found neither in ${local} nor in the Hugging Face cache ${hub}; ` +
      `accept its licence at https://huggingface.co/${named.repository}, run "huggingface-cli login", then either ` +
      `"${download}" (fills the cache) or "${download} --local-dir ${local}"`,
  );
}

function checkDirectory(directory: string): string {
  const status = statSync(directory, { throwIfNoEntry: false });
  if (!status?.isDirectory()) {
    const names = Object.keys(NAMED).join(", ");
    const what = status ? "is a file" : "no such directory";
    throw new UserError(
      `backbone ${directory}: ${what}; expected one of ${names}, or a Hugging Face model directory`,
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
