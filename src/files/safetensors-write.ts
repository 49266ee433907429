import { writeFileAtomic } from "./atomic.ts";
import { ITEM_BYTES, type StoredType } from "./stored-tensor.ts";

type Data = ArrayBufferView | Iterable<ArrayBufferView> | AsyncIterable<ArrayBufferView>;

/** One tensor for `writeSafetensors` and `writeTorchBin`. */
export interface TensorToWrite {
  name: string;
  dtype: StoredType;
  shape: readonly number[];
  /**
   * Its elements (any typed array over the right bytes, little-endian), or a function that gives them when their turn
   * comes, whole or in pieces, so that a large model need not be in memory at once.
   */
  data: ArrayBufferView | (() => Data | Promise<Data>);
}

/**
 * Writes a safetensors file atomically (see `writeFileAtomic`), one tensor at a time. Wider types come first and the
 * header is padded to a multiple of 8, so every tensor starts at a multiple of its element size. Equal input gives an
 * equal file, byte for byte.
 *
 * @param metadata strings for the header's `__metadata__`.
 * @throws UserError when the file cannot be written; RangeError (a defect of the caller) for a repeated name or data
 * whose size is not that of dtype and shape.
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const ordered = [...tensors].sort((a, b) => ITEM_BYTES[b.dtype] - ITEM_BYTES[a.dtype]);
  const header: [string, unknown][] = [];
  const names = new Set<string>(["__metadata__"]);
  if (Object.keys(metadata).length > 0) header.push(["__metadata__", metadata]);
  let position = 0;
  for (const { name, dtype, shape } of ordered) {
    if (names.has(name)) throw new RangeError(`two tensors named ${name} for ${path}`);
    names.add(name);
    const end = position + tensorBytes(dtype, shape);
    header.push([name, { dtype, shape, data_offsets: [position, end] }]);
    position = end;
  }
  // Joined by hand: an object would put names that look like numbers first, and lose one named __proto__.
  const json = `{${header.map(([name, entry]) => `${JSON.stringify(name)}:${JSON.stringify(entry)}`).join(",")}}`;
  await writeFileAtomic(path, pieces(path, json, ordered));
}

async function* pieces(
  path: string,
  json: string,
  tensors: readonly TensorToWrite[],
): AsyncGenerator<Uint8Array> {
  const text = Buffer.from(json, "utf8");
  const padded = Math.ceil(text.byteLength / 8) * 8;
  const head = new Uint8Array(8 + padded).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(padded), true);
  head.set(text, 8);
  yield head;
  for (const { name, dtype, shape, data } of tensors) {
    const given = typeof data === "function" ? await data() : data;
    const views = ArrayBuffer.isView(given) ? [given] : given;
    const bytes = tensorBytes(dtype, shape);
    let written = 0;
    for await (const view of views) {
      written += view.byteLength;
      if (written > bytes) break;
      yield new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    }
    if (written !== bytes) {
      const expected = `${bytes} bytes for ${dtype} [${shape.join(", ")}]`;
      throw new RangeError(`tensor ${name} for ${path}: ${written} bytes of data, expected ${expected}`);
    }
  }
}

function tensorBytes(dtype: StoredType, shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, ITEM_BYTES[dtype]);
}
