// A prepared dataset on disk: `dataset.jsonl` (header, items, users; it is all that is needed) and, for people and
// other programs to read, `statistics.json`.
import { mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileError, writeFileAtomic } from "../files/atomic.ts";
import { UserError } from "../files/user-error.ts";
import { contentLines, type Dataset, type Item, makeDataset, type Provenance } from "./dataset.ts";
import { TextFile } from "./text-file.ts";

const DATA_FILE = "dataset.jsonl";
const STATISTICS_FILE = "statistics.json";
const VERSION = 1;

/** Whether a folder holds a prepared dataset. */
export async function isPreparedFolder(folder: string): Promise<boolean> {
  return stat(join(folder, DATA_FILE)).then(
    (status) => status.isFile(),
    () => false,
  );
}

/** Writes a dataset into a folder (made if need be); each file is replaced as a whole or not at all. */
export async function saveDataset(folder: string, dataset: Dataset): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw fileError("make the folder", folder, error);
  }
  const { name, hash, statistics, provenance } = dataset;
  await writeFileAtomic(join(folder, DATA_FILE), storedChunks(dataset));
  const readable = JSON.stringify({ name, hash, statistics, provenance }, null, 2);
  await writeFileAtomic(join(folder, STATISTICS_FILE), `${readable}\n`);
}

/**
 * Reads a prepared dataset back. Throws a UserError naming the file and line when something is missing, malformed or
 * out of range, or when the content does not have the hash that it was stored with.
 */
export async function loadDataset(folder: string): Promise<Dataset> {
  const path = join(folder, DATA_FILE);
  if (!(await isPreparedFolder(folder))) {
    throw new UserError(`${folder} holds no prepared dataset (${DATA_FILE}); make one with: laser data`);
  }
  const items: Item[] = [];
  const users: string[] = [];
  const sequences: Uint32Array[] = [];
  let header: Header | undefined;
  await new TextFile(path).lines((line, number) => {
    const fail = (problem: string): never => {
      throw new UserError(`${path}: line ${number}: ${problem}; prepare the data again with: laser data`);
    };
    let record: Record<string, unknown>;
    try {
      record = JSON.parse(line);
    } catch {
      return fail("not JSON (the file is damaged or cut off)");
    }
    if (!header) {
      header = readHeader(record) ?? fail(`not the header of a prepared dataset of version ${VERSION}`);
    } else if (typeof record?.item === "string" && typeof record.title === "string" && !users.length) {
      items.push(readItem(record.item, record.title, record));
    } else if (typeof record?.user === "string" && Array.isArray(record.items)) {
      const known = (item: unknown): boolean =>
        Number.isInteger(item) && Number(item) >= 0 && Number(item) < items.length;
      if (!record.items.every(known)) fail(`an item index outside 0..${items.length - 1}`);
      users.push(record.user);
      sequences.push(Uint32Array.from(record.items as number[]));
    } else {
      fail("neither an item nor a user record");
    }
  });
  if (!header) throw new UserError(`${path} holds nothing; prepare the data again with: laser data`);
  const { name, hash, provenance }: Header = header;
  const dataset = makeDataset({ name, users, items, sequences, provenance });
  if (dataset.hash !== hash) {
    throw new UserError(
      `${path}: the content (${users.length} users, ${items.length} items) does not match its hash, it was changed or cut off; prepare the data again with: laser data`,
    );
  }
  return dataset;
}

interface Header {
  name: string;
  hash: string;
  provenance: Provenance;
}

function readHeader(record: Record<string, unknown>): Header | undefined {
  const { format, version, name, hash, provenance } = record ?? {};
  const valid =
    format === "laser dataset" &&
    version === VERSION &&
    typeof name === "string" &&
    typeof hash === "string" &&
    typeof provenance === "object" &&
    provenance !== null;
  return valid ? { name, hash, provenance: provenance as Provenance } : undefined;
}

function readItem(id: string, title: string, record: Record<string, unknown>): Item {
  const { brand, category } = record;
  return {
    id,
    title,
    ...(typeof brand === "string" && { brand }),
    ...(typeof category === "string" && { category }),
  };
}

/** The stored lines, gathered into pieces of about 256 KiB: one write a line would be slow. */
function* storedChunks(dataset: Dataset): Generator<string> {
  const { name, hash, provenance } = dataset;
  let chunk = `${JSON.stringify({ format: "laser dataset", version: VERSION, name, hash, provenance })}\n`;
  for (const line of contentLines(dataset)) {
    chunk += line;
    if (chunk.length > 2 ** 18) {
      yield chunk;
      chunk = "";
    }
  }
  yield chunk;
}
