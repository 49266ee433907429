import { openSafetensors, type StoredType } from "./safetensors.ts";
import { UserError } from "./user-error.ts";

/** The typed array that holds a stored dtype. f16, bf16 and 8-bit floats stay bit patterns: JavaScript has no such arrays. */
export type StoredData =
  | Float32Array
  | Float64Array
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | BigUint64Array
  | BigInt64Array;

const VIEWS: Record<StoredType, new (buffer: ArrayBufferLike) => StoredData> = {
  BOOL: Uint8Array,
  U8: Uint8Array,
  I8: Int8Array,
  F8_E5M2: Uint8Array,
  F8_E4M3: Uint8Array,
  U16: Uint16Array,
  I16: Int16Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  U32: Uint32Array,
  I32: Int32Array,
  F32: Float32Array,
  U64: BigUint64Array,
  I64: BigInt64Array,
  F64: Float64Array,
};

/** A tensor in memory, as `readSafetensors` gives it. */
export interface LoadedTensor {
  dtype: StoredType;
  shape: readonly number[];
  data: StoredData;
}

/**
 * Reads a whole small safetensors file (a reference dump, a run's checkpoint) into typed arrays. Backbones are read
 * with `openSafetensors`, piece by piece, instead.
 *
 * @throws UserError as `openSafetensors`, and for a file of more than `maxBytes`.
 */
export async function readSafetensors(
  path: string,
  maxBytes = 4 * 2 ** 30,
): Promise<{ tensors: Map<string, LoadedTensor>; metadata: Map<string, string> }> {
  await using file = await openSafetensors(path);
  const total = [...file.tensors.values()].reduce((sum, { start, end }) => sum + end - start, 0);
  if (total > maxBytes) {
    throw new UserError(`${path}: ${total} bytes of tensors, too many to read at once (at most ${maxBytes})`);
  }
  const tensors = new Map<string, LoadedTensor>();
  for (const [name, { dtype, shape }] of file.tensors) {
    const bytes = await file.read(name);
    tensors.set(name, { dtype, shape, data: new VIEWS[dtype](bytes.buffer) });
  }
  return { tensors, metadata: new Map(file.metadata) };
}
