/**
 * Item vectors made elsewhere, as a file gives them: `items.weight` [n, d_c] (F32, F16 or BF16), optionally
 * `unknown.weight` [d_c], and the n item ids of its rows, in the file's metadata or in a file of their own. docs/data.md
 * has the format.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { Dataset } from "../data/dataset.ts";
import { fileError } from "../files/atomic.ts";
import { openSafetensors, type SafetensorsFile } from "../files/safetensors.ts";
import { UserError } from "../files/user-error.ts";
import type { Flat } from "./checkpoint.ts";
import type { VectorSettings } from "./recommender-settings.ts";

const ITEMS = "items.weight";
const UNKNOWN = "unknown.weight";
/** The key of the id list in `__metadata__`. */
const IDS = "items";

/** The vectors of a dataset's items. */
export interface MatchedVectors {
  readonly settings: VectorSettings;
  /** [I + 1, d_c]: the dataset's items in its order, then what an unknown item is read as. */
  readonly rows: Flat;
}

/**
 * Reads item vectors and matches them to a dataset by item id: an item without a vector, or added later, is read as
 * `unknown.weight`, or as the mean of all vectors of the file where that is not given. Ids of the file that the data
 * does not have are left out. Throws UserError naming the file and the tensor, the row or the id at fault.
 */
export async function readItemVectors(
  path: string,
  idsPath: string | undefined,
  dataset: Dataset,
): Promise<MatchedVectors> {
  await using file = await openSafetensors(path);
  const [count, width] = shapeOf(file, ITEMS, 2);
  const ids = await idsOf(file, idsPath);
  if (ids.list.length !== count) {
    throw new UserError(
      `${ids.source} has ${ids.list.length} item ids, and ${ITEMS} in ${path} ${count} rows; give one id a row, in order`,
    );
  }
  const rowOf = new Map<string, number>();
  ids.list.forEach((id, row) => {
    const before = rowOf.get(id);
    if (before !== undefined) {
      throw new UserError(`${ids.source}: the item ${id} has two rows, ${before} and ${row}; keep one`);
    }
    rowOf.set(id, row);
  });
  const vectors = await file.float32(ITEMS);
  const bad = vectors.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) {
    const row = Math.floor(bad / width);
    throw new UserError(
      `${path}: row ${row} of ${ITEMS} (item ${ids.list[row]}) is not finite; export it again`,
    );
  }
  const unknown = file.tensors.has(UNKNOWN) ? await unknownOf(file, width) : meanRow(vectors, width);
  const rows = new Float32Array((dataset.items.length + 1) * width);
  let matched = 0;
  dataset.items.forEach(({ id }, i) => {
    const row = rowOf.get(id);
    if (row !== undefined) matched++;
    rows.set(row === undefined ? unknown : vectors.subarray(row * width, (row + 1) * width), i * width);
  });
  rows.set(unknown, dataset.items.length * width);
  if (matched === 0) {
    throw new UserError(
      `${ids.source}: none of its item ids (${ids.list.slice(0, 3).join(", ")}, ...) is an item of ${dataset.name} (${dataset.items
        .slice(0, 3)
        .map(({ id }) => id)
        .join(", ")}, ...); the ids must be those of the data's source`,
    );
  }
  const sha256 = createHash("sha256").update(new Uint8Array(rows.buffer)).digest("hex");
  return { settings: { recommender: "vectors", width, matched, sha256 }, rows };
}

/** The shape of a floating tensor with this many axes, none of them empty. */
function shapeOf(file: SafetensorsFile, name: string, axes: number): readonly number[] {
  const found = file.tensors.get(name);
  if (!found) {
    const names = [...file.tensors.keys()].slice(0, 5).join(", ");
    throw new UserError(
      `${file.path}: tensor ${name} is missing (it holds ${names || "none"}); item vectors are ${ITEMS} [items, width]`,
    );
  }
  const { shape, dtype } = found;
  if (shape.length !== axes || shape.includes(0)) {
    throw new UserError(
      `${file.path}: tensor ${name} has shape [${shape}], expected ${axes} axes, none of them 0`,
    );
  }
  if (!["F32", "F16", "BF16"].includes(dtype)) {
    throw new UserError(`${file.path}: tensor ${name} is ${dtype}, expected F32, F16 or BF16`);
  }
  return shape;
}

async function unknownOf(file: SafetensorsFile, width: number): Promise<Float32Array> {
  const [own] = shapeOf(file, UNKNOWN, 1);
  if (own !== width) {
    throw new UserError(
      `${file.path}: tensor ${UNKNOWN} has shape [${own}], expected [${width}] as ${ITEMS}`,
    );
  }
  const row = await file.float32(UNKNOWN);
  if (!row.every(Number.isFinite))
    throw new UserError(`${file.path}: ${UNKNOWN} is not finite; export it again`);
  return row;
}

function meanRow(vectors: Float32Array, width: number): Float32Array {
  const sums = new Float64Array(width);
  vectors.forEach((value, i) => {
    sums[i % width] += value;
  });
  return Float32Array.from(sums, (sum) => (sum * width) / vectors.length);
}

/** The ids of the rows: from the metadata of the file, or else from a file of their own. */
async function idsOf(
  file: SafetensorsFile,
  idsPath: string | undefined,
): Promise<{ list: readonly string[]; source: string }> {
  const inside = file.metadata.get(IDS);
  if (inside !== undefined && idsPath !== undefined) {
    throw new UserError(
      `${file.path} names its items itself (metadata "${IDS}"); leave out --item-ids ${idsPath}`,
    );
  }
  if (inside !== undefined) {
    const source = `${file.path} (metadata "${IDS}")`;
    return { list: idList(parsed(inside, source), source), source };
  }
  if (idsPath === undefined) {
    throw new UserError(
      `${file.path} does not say which items its rows are; give their ids with --item-ids FILE (JSON list, or one a line), or in the metadata "${IDS}"`,
    );
  }
  const text = await readFile(idsPath, "utf8").catch((error: unknown) => {
    throw fileError("read", idsPath, error);
  });
  if (text.trimStart().startsWith("["))
    return { list: idList(parsed(text, idsPath), idsPath), source: idsPath };
  const lines = text.replace(/\r?\n$/, "").split(/\r?\n/);
  return { list: idList(lines, idsPath), source: idsPath };
}

function parsed(text: string, source: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(
      `${source}: not valid JSON (${(error as Error).message}); expected a list of item ids`,
    );
  }
}

/** Ids as text; whole numbers are taken as they are written. */
function idList(value: unknown, source: string): string[] {
  if (!Array.isArray(value)) throw new UserError(`${source}: expected a JSON list of item ids`);
  return value.map((id: unknown, row) => {
    if (typeof id === "string" && id !== "") return id;
    if (Number.isSafeInteger(id)) return String(id);
    throw new UserError(`${source}: entry ${row} is ${JSON.stringify(id)}; expected an item id`);
  });
}
