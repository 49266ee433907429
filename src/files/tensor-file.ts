import { type FileHandle, open } from "node:fs/promises";
import { fileError } from "./atomic.ts";
import { ITEM_BYTES, type StoredTensor, WIDEN } from "./stored-tensor.ts";
import { UserError } from "./user-error.ts";

/**
 * An open file of tensors, whatever its format: a format's reader finds out where the bytes of each tensor lie
 * (`openSafetensors`, `openTorchBin`), the rest is the same. Tensors are read on demand, so a checkpoint may be far
 * larger than the memory of the host. Close it when done (or `await using`).
 */
export class TensorFile {
  readonly path: string;
  /** Every tensor by name, in the file's order. Two names may share bytes (tied weights). */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly #file: FileHandle;

  /** Takes over the open file. Every tensor must lie within it, with as many bytes as its dtype and shape take. */
  constructor(path: string, file: FileHandle, tensors: ReadonlyMap<string, StoredTensor>) {
    this.path = path;
    this.#file = file;
    this.tensors = tensors;
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

  /** Fills `bytes` with those of a tensor from its byte `from` on. */
  async readInto(name: string, from: number, bytes: Uint8Array): Promise<void> {
    const { start, end } = this.info(name);
    if (start + from + bytes.byteLength > end)
      throw new Error(`bytes ${from}.. of ${name} reach beyond its ${end - start}`);
    await readFully(this.#file, this.path, bytes, start + from);
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
 * Opens a regular file and hands it, with its size, to `read`, which takes it over; when `read` fails, it is closed.
 *
 * @param kind what was expected, for messages: "a safetensors file".
 * @throws UserError for a file that is missing, unreadable or no regular file; whatever `read` throws.
 */
export async function openRegular<T>(
  path: string,
  kind: string,
  read: (file: FileHandle, bytes: number) => Promise<T>,
): Promise<T> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, "r");
    const status = await file.stat();
    if (!status.isFile()) throw new UserError(`${path}: not a regular file; ${kind} was expected`);
    return await read(file, status.size);
  } catch (error) {
    await file?.close();
    throw fileError("read", path, error);
  }
}

/** Fills `bytes` from a position of the file; a file that has become shorter meanwhile is an error. */
export async function readFully(
  file: FileHandle,
  path: string,
  bytes: Uint8Array,
  position: number,
): Promise<void> {
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

/** The UserError for a file that ends too early. */
export function truncated(path: string, what: string): UserError {
  return new UserError(`${path}: ${what}; the file is truncated: download or write it again`);
}
