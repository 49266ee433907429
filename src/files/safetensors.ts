import type { FileHandle } from "node:fs/promises";
import { MAX_HEADER_BYTES, parseHeader } from "./safetensors-header.ts";
import type { StoredTensor } from "./stored-tensor.ts";
import { openRegular, readFully, TensorFile, truncated } from "./tensor-file.ts";
import { UserError } from "./user-error.ts";

export { type TensorToWrite, writeSafetensors } from "./safetensors-write.ts";
export { ITEM_BYTES, type StoredTensor, type StoredType, WIDEN } from "./stored-tensor.ts";

/** An open safetensors file: its tensors, and the strings of its header. Only the header is in memory. */
export class SafetensorsFile extends TensorFile {
  /** The `__metadata__` strings of the header. */
  readonly metadata: ReadonlyMap<string, string>;

  /** Use `openSafetensors`, which checks what it passes here. */
  constructor(
    path: string,
    file: FileHandle,
    header: { tensors: ReadonlyMap<string, StoredTensor>; metadata: ReadonlyMap<string, string> },
  ) {
    super(path, file, header.tensors);
    this.metadata = header.metadata;
  }
}

/**
 * Opens a safetensors file, reads its header and checks it wholly against the file's size.
 *
 * @throws UserError for a missing, truncated, damaged or inconsistent file, naming it and the tensor at fault.
 */
export function openSafetensors(path: string): Promise<SafetensorsFile> {
  return openRegular(path, "a safetensors file", async (file, fileBytes) => {
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
  });
}
