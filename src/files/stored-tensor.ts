import { bfloatsToFloats, halvesToFloats } from "./half.ts";

/** Bytes an element, for every dtype that a weight file may hold, by its safetensors name. */
export const ITEM_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const;

export type StoredType = keyof typeof ITEM_BYTES;

/** One tensor of a weight file, contiguous, row-major and little-endian: its bytes as positions in the file. */
export interface StoredTensor {
  readonly dtype: StoredType;
  readonly shape: readonly number[];
  /** First byte, counted from the start of the file. */
  readonly start: number;
  /** One past the last byte. */
  readonly end: number;
}

/**
 * Bytes of whole elements to f32, for each floating dtype. The bytes must start at a multiple of the element size in
 * their buffer, as those of `TensorFile.read` and `chunks` do.
 */
export const WIDEN: Partial<Record<StoredType, (bytes: Uint8Array) => Float32Array>> = {
  F32: (bytes) => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4),
  F16: (bytes) => halvesToFloats(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)),
  BF16: (bytes) => bfloatsToFloats(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)),
  F64: (bytes) => Float32Array.from(new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8)),
};
