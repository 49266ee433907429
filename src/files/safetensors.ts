import { type FileHandle, open } from "node:fs/promises";
import { fileError } from "./atomic.ts";
import { bfloatsToFloats, halvesToFloats } from "./half.ts";
import {
  ITEM_BYTES,
  MAX_HEADER_BYTES,
  parseHeader,
  type StoredTensor,
  type StoredType,
} from "./safetensors-header.ts";
import { UserError } from "./user-error.ts";

export { ITEM_BYTES, type StoredTensor, type StoredType } from "./safetensors-header.ts";
export { type TensorToWrite, writeSafetensors } from "./safetensors-write.ts";

/**
 * An open safetensors file. Only the header is in memory; tensors are read on demand, so a checkpoint may be far
 * larger than the memory of the host. Close it when done (or `await using`).
 */
export class SafetensorsFile {
  readonly path: string;
  /** Every tensor by name, in the header's order. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** The `__metadata__` strings of the header. */
  readonly metadata: ReadonlyMap<string, string>;
  readonly #file: FileHandle;

  /** Use `openSafetensors`, which checks what it passes here. */
  constructor(
    path: string,
    file: FileHandle,
    header: { tensors: ReadonlyMap<string, StoredTensor>; metadata: ReadonlyMap<string, string> },
  ) {
    this.path = path;
    this.#file = file;
    this.tensors = header.tensors;
    this.metadata = header.metadata;
  }

  /** dtype, shape and place of a tensor. @throws UserError when the file has no such tensor. */
  info(name: string): StoredTensor {
    const tensor = this.tensors.get(name);
    if (tensor) return tensor;
    throw new UserError(
      `${this.path}: no tensor ${name} among the ${this.tensors.size} it holds; is it the right file?`,
    );
  }

  /** The bytes of a tensor (little-endian, row-major), in a buffer of their own. */
  async read(name: string): Promise<Uint8Array> {
    const { start, end } = this.info(name);
    const bytes = new Uint8Array(end - start);
    await readFully(this.#file, this.path, bytes, start);
    return bytes;
  }

  /**
   * The bytes of a tensor in order, in pieces of at most `maxBytes` that hold whole elements. Each piece is a buffer
   * of its own; only one is in memory unless the caller keeps them.
   */
  async *chunks(name: string, maxBytes: number): AsyncGenerator<Uint8Array, void, undefined> {
    const { dtype, start, end } = this.info(name);
    const item = ITEM_BYTES[dtype];
    const step = Math.max(item, maxBytes - (maxBytes % item));
    for (let position = start; position < end; position += step) {
      const bytes = new Uint8Array(Math.min(step, end - position));
      await readFully(this.#file, this.path, bytes, position);
      yield bytes;
    }
  }

  /** A tensor of a floating type as f32: F16 and BF16 widened exactly, F64 rounded. @throws UserError for others. */
  async float32(name: string): Promise<Float32Array> {
    const { dtype } = this.info(name);
    const widen = WIDEN[dtype];
    if (!widen)
      throw new UserError(`${this.path}: tensor ${name} is ${dtype}, expected F32, F16, BF16 or F64`);
    return widen(await this.read(name));
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/**
 * Bytes of whole elements to f32, for each floating dtype. The bytes must start at a multiple of the element size in
 * their buffer, as those of `read` and `chunks` do.
 */
export const WIDEN: Partial<Record<StoredType, (bytes: Uint8Array) => Float32Array>> = {
  F32: (bytes) => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4),
  F16: (bytes) => halvesToFloats(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)),
  BF16: (bytes) => bfloatsToFloats(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)),
  F64: (bytes) => Float32Array.from(new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8)),
};

/**
 * Opens a safetensors file, reads its header and checks it wholly against the file's size.
 *
 * @throws UserError for a missing, truncated, damaged or inconsistent file, naming it and the tensor at fault.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, "r");
    const status = await file.stat();
    if (!status.isFile()) throw new UserError(`${path}: not a regular file; a safetensors file was expected`);
    const fileBytes = status.size;
    if (fileBytes < 8) throw truncated(path, `${fileBytes} bytes, too short for a safetensors header`);
    const prefix = new Uint8Array(8);
    await readFully(file, path, prefix, 0);
    const length = new DataView(prefix.buffer).getBigUint64(0, true);
    if (length > BigInt(MAX_HEADER_BYTES)) {
      throw new UserError(
        `${path}: its first 8 bytes announce a header of ${length} bytes (limit ${MAX_HEADER_BYTES}); is it a safetensors file?`,
      );
    }
    const headerBytes = Number(length);
    if (8 + headerBytes > fileBytes) {
      throw truncated(path, `its header should take ${8 + headerBytes} bytes and the file has ${fileBytes}`);
    }
    const header = new Uint8Array(headerBytes);
    await readFully(file, path, header, 8);
    return new SafetensorsFile(path, file, parseHeader(path, header, fileBytes));
  } catch (error) {
    await file?.close();
    throw fileError("read", path, error);
  }
}

/** Fills `bytes` from a position of the file; a file that has become shorter meanwhile is an error. */
async function readFully(file: FileHandle, path: string, bytes: Uint8Array, position: number): Promise<void> {
  try {
    for (let offset = 0; offset < bytes.byteLength; ) {
      // One read call of Node takes less than 2 GiB.
      const length = Math.min(bytes.byteLength - offset, 1 << 30);
      const { bytesRead } = await file.read(bytes, offset, length, position + offset);
      if (bytesRead === 0) throw truncated(path, `it ends at byte ${position + offset}, while being read`);
      offset += bytesRead;
    }
  } catch (error) {
    throw fileError("read", path, error);
  }
}

function truncated(path: string, what: string): UserError {
  return new UserError(`${path}: ${what}; the file is truncated: download or write it again`);
}
