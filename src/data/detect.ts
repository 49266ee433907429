// Finds out what a path holds, and reads it.
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileError } from "../files/atomic.ts";
import { UserError } from "../files/user-error.ts";
import { readAmazon2018 } from "./amazon.ts";
import { readOwnTables } from "./own-tables.ts";
import type { Format, RawData } from "./raw.ts";
import { readRecBole } from "./recbole.ts";
import { isPreparedFolder } from "./storage.ts";
import { type ReadProgress, TextFile } from "./text-file.ts";

/** Two files that belong together. */
export interface FilePair {
  interactions: string;
  items: string;
}

/** A pair of files and how to read them; `name` is the dataset's. */
export interface Source extends FilePair {
  name: string;
  format: Format;
}

const EXPECTED =
  "NAME.inter with NAME.item (RecBole), X_5.json.gz with meta_X.json.gz (Amazon 2018), or interactions.csv with items.csv (or .jsonl)";

/** File names of interactions, and the name of the item file beside each. */
const PAIRS: readonly [
  pattern: RegExp,
  items: (match: RegExpExecArray) => string[],
  name: (match: RegExpExecArray) => string | undefined,
][] = [
  [/^(.+)\.inter$/, (m) => [`${m[1]}.item`], (m) => m[1]],
  [/^(?!meta_)(.+?)_5\.json(\.gz)?$/, (m) => [`meta_${m[1]}.json.gz`, `meta_${m[1]}.json`], (m) => m[1]],
  [
    /^interactions\.(csv|jsonl)(\.gz)?$/,
    (m) => [m[1], m[1] === "csv" ? "jsonl" : "csv"].flatMap((end) => [`items.${end}`, `items.${end}.gz`]),
    () => undefined,
  ],
  // The whole (not 5-core) reviews of Amazon 2018 carry no "_5".
  [/^(?!meta_)(.+?)\.json(\.gz)?$/, (m) => [`meta_${m[1]}.json.gz`, `meta_${m[1]}.json`], (m) => m[1]],
];

/**
 * Reads a dataset from a folder that holds one, from its interactions file (the item file is found beside it), or
 * from two files named explicitly (told apart by their content). Throws a UserError that says what was looked for.
 */
export async function detectAndRead(input: string | FilePair, onProgress?: ReadProgress): Promise<RawData> {
  const { interactions, items, name, format } = await detect(input);
  if (format === "recbole") return readRecBole(interactions, items, name, onProgress);
  if (format === "amazon-2018") return readAmazon2018(interactions, items, name, onProgress);
  return readOwnTables(interactions, items, name, onProgress);
}

/** Finds the two files and their format without reading them. */
export async function detect(input: string | FilePair): Promise<Source> {
  const { pair, name } = typeof input === "string" ? await findPair(input) : { pair: input, name: undefined };
  const fallback = basename(pair.interactions).replace(/(\.(inter|csv|jsonl?|tsv|txt|gz))+$/, "");
  return { ...pair, name: name ?? fallback, format: await formatOf(pair) };
}

async function formatOf(pair: FilePair): Promise<Format> {
  const [first] = await Promise.all([
    new TextFile(pair.interactions).firstLine(),
    // Both must be there before hours go into reading the first.
    new TextFile(pair.items).firstLine(),
  ]);
  if (first.startsWith("{")) {
    const amazon = /"(reviewerID|unixReviewTime|parent_asin)"\s*:/.test(first) || /^\{\s*u?'/.test(first);
    return amazon ? "amazon-2018" : "jsonl";
  }
  if (first.includes("\t") && /:(token|float)/.test(first)) return "recbole";
  if (first.includes(",")) return "csv";
  throw new UserError(
    `${pair.interactions}: line 1 is none of the known formats; expected JSON lines, a CSV header (user,item,timestamp) or a RecBole header (user_id:token, tab, item_id:token), found ${JSON.stringify(first.slice(0, 60))}`,
  );
}

async function findPair(path: string): Promise<{ pair: FilePair; name: string | undefined }> {
  let isFolder: boolean;
  try {
    isFolder = (await stat(path)).isDirectory();
  } catch (error) {
    throw fileError("read", path, error);
  }
  const folder = isFolder ? path : dirname(path);
  if (isFolder && (await isPreparedFolder(path))) {
    throw new UserError(`${path} already holds a prepared dataset; expected a source: ${EXPECTED}`);
  }
  const names = await readdir(folder);
  const candidates = isFolder ? names.sort() : [basename(path)];
  const found: { pair: FilePair; name: string | undefined }[] = [];
  const incomplete: string[] = [];
  for (const candidate of candidates) {
    for (const [pattern, itemNames, nameOf] of PAIRS) {
      const match = pattern.exec(candidate);
      if (!match) continue;
      const items = itemNames(match).find((name) => names.includes(name));
      if (items) {
        const pair = { interactions: join(folder, candidate), items: join(folder, items) };
        found.push({ pair, name: nameOf(match) ?? basename(resolve(folder)) });
      } else {
        incomplete.push(`${candidate} has no ${itemNames(match)[0]} beside it`);
      }
      break;
    }
  }
  if (found.length === 1) return found[0];
  if (found.length > 1) {
    const list = found.map(({ pair }) => basename(pair.interactions)).join(", ");
    throw new UserError(`${path} holds ${found.length} datasets (${list}); name one of these files`);
  }
  const why = incomplete.length ? incomplete.slice(0, 3).join("; ") : "no file that looks like interactions";
  throw new UserError(
    `${path}: ${why}; expected ${EXPECTED}, or name the interactions and the item file both`,
  );
}
