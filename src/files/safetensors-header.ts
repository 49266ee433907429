import { repeatedKey } from "./json-keys.ts";
import { ITEM_BYTES, type StoredTensor, type StoredType } from "./stored-tensor.ts";
import { UserError } from "./user-error.ts";

/** The format's own limit on the header, against files that would have us allocate anything they say. */
export const MAX_HEADER_BYTES = 100_000_000;

/**
 * Parses and checks a safetensors header: JSON object of `name: {dtype, shape, data_offsets}` and the optional
 * `__metadata__` of strings. The tensors must cover the data exactly: no overlap, no hole, nothing beyond the end.
 *
 * @param path named in errors only.
 * @param header the header's bytes (those after the 8 of its length).
 * @param fileBytes the size of the whole file.
 * @throws UserError naming the file, the tensor, what was expected and what was found.
 */
export function parseHeader(
  path: string,
  header: Uint8Array,
  fileBytes: number,
): { tensors: Map<string, StoredTensor>; metadata: Map<string, string> } {
  const damaged = (what: string) =>
    new UserError(
      `${path}: ${what}; the file is damaged or not a safetensors file: download or write it again`,
    );

  let json: unknown;
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(header);
    json = JSON.parse(text);
  } catch (error) {
    throw damaged(`the header is not valid JSON (${(error as Error).message})`);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw damaged("the header is not a JSON object");
  }
  const repeated = repeatedKey(text);
  if (repeated !== null) throw damaged(`the header names ${JSON.stringify(repeated)} twice`);

  const dataStart = 8 + header.byteLength;
  const dataBytes = fileBytes - dataStart;
  const tensors = new Map<string, StoredTensor>();
  const metadata = new Map<string, string>();
  for (const [name, entry] of Object.entries(json)) {
    if (name === "__metadata__") {
      if (typeof entry !== "object" || entry === null || Array.isArray(entry)) {
        throw damaged("__metadata__ is not an object of strings");
      }
      for (const [key, value] of Object.entries(entry)) {
        if (typeof value !== "string")
          throw damaged(`__metadata__ field ${JSON.stringify(key)} is not a string`);
        metadata.set(key, value);
      }
    } else tensors.set(name, parseTensor(name, entry, dataStart, dataBytes, damaged));
  }
  checkCover(tensors, dataStart, fileBytes, damaged);
  return { tensors, metadata };
}

function parseTensor(
  name: string,
  entry: unknown,
  dataStart: number,
  dataBytes: number,
  damaged: (what: string) => UserError,
): StoredTensor {
  const bad = (what: string) => damaged(`tensor ${name}: ${what}`);
  if (typeof entry !== "object" || entry === null) throw bad("its entry is not an object");
  const { dtype, shape, data_offsets: offsets } = entry as Record<string, unknown>;
  if (typeof dtype !== "string" || !Object.hasOwn(ITEM_BYTES, dtype)) {
    throw bad(
      `unknown dtype ${JSON.stringify(dtype)}, expected one of ${Object.keys(ITEM_BYTES).join(", ")}`,
    );
  }
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw bad(`shape ${JSON.stringify(shape)}, expected a list of whole numbers`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw bad(`data_offsets ${JSON.stringify(offsets)}, expected two whole numbers`);
  }
  const [start, end] = offsets as [number, number];
  if (start > end || end > dataBytes) {
    const cut = start <= end ? " (is it truncated?)" : "";
    throw bad(
      `data_offsets [${start}, ${end}] lie outside the ${dataBytes} bytes of data that the file holds${cut}`,
    );
  }
  const type = dtype as StoredType;
  const bytes = (shape as number[]).reduce((product, extent) => product * extent, ITEM_BYTES[type]);
  if (bytes !== end - start) {
    throw bad(
      `${type} of shape [${shape.join(", ")}] takes ${bytes} bytes, but its data_offsets span ${end - start}`,
    );
  }
  return { dtype: type, shape: shape as number[], start: dataStart + start, end: dataStart + end };
}

/** The tensors, in the order of their bytes, must follow one another from the header's end to the file's end. */
function checkCover(
  tensors: Map<string, StoredTensor>,
  dataStart: number,
  fileBytes: number,
  damaged: (what: string) => UserError,
): void {
  const ordered = [...tensors].sort(([, a], [, b]) => a.start - b.start || a.end - b.end);
  let position = dataStart;
  let previous = "";
  for (const [name, { start, end }] of ordered) {
    const offset = start - dataStart;
    if (start < position)
      throw damaged(`tensors ${previous} and ${name} overlap at byte ${offset} of the data`);
    if (start > position) {
      throw damaged(
        `${start - position} bytes before tensor ${name} (byte ${offset} of the data) belong to no tensor`,
      );
    }
    position = end;
    previous = name;
  }
  if (position < fileBytes)
    throw damaged(`${fileBytes - position} bytes after the last tensor belong to no tensor`);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
