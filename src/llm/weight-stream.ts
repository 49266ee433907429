import { bfloatsToFloats, floatsToHalves, HALF_MAX, packHalves } from "../files/half.ts";
import { ITEM_BYTES, type StoredType, WIDEN } from "../files/safetensors.ts";
import { UserError } from "../files/user-error.ts";
import { isQuantized, rowBytes } from "../gpu/tensor.ts";
import type { Checkpoint } from "./checkpoint-index.ts";
import { quantizeRows } from "./quantize.ts";

/**
 * How weights lie in GPU memory: f32, f16 packed two to a u32, or codes of eight or four bits with a scale for every 64
 * columns (src/llm/quantize.ts).
 */
export const WEIGHT_STORAGES = ["f32", "f16", "int8", "int4"] as const;
export type WeightStorage = (typeof WEIGHT_STORAGES)[number];

/** A piece of a tensor, ready to be written to the GPU `byte` bytes into the tensor. */
export interface WeightPiece {
  readonly byte: number;
  /** Index in the tensor of the piece's first element (always even; the first of a row where weights are quantised). */
  readonly first: number;
  readonly elements: number;
  /** f32 values; f16 pairs, element 2i in the low half of word i (a zero pads an odd last one); or quantised rows. */
  readonly words: Float32Array | Uint32Array;
}

export interface StreamOptions {
  /** Bytes of the file to hold at once; whole rows, and at least one, where weights are quantised. Default: 16 MiB. */
  readonly maxBytes?: number;
  /** Give the columns of a matrix as rows (quantised storages only). */
  readonly transposed?: boolean;
}

/**
 * A tensor's values in the storage asked for, in pieces: neither the file nor the tensor is ever whole in memory. Every
 * value is checked on the way. The host does it: what kernels cannot take, and the reference for what they make
 * (`WeightLoader`).
 *
 * @throws UserError naming the file, the tensor and the element: NaN or infinite, or beyond f16's range (+-65504) when
 * another storage than f32 was asked for.
 */
export async function* streamWeights(
  checkpoint: Checkpoint,
  name: string,
  storage: WeightStorage,
  { maxBytes = 16 * 2 ** 20, transposed = false }: StreamOptions = {},
): AsyncGenerator<WeightPiece, void, undefined> {
  const { dtype, path, shape } = checkpoint.info(name);
  const widen = WIDEN[dtype];
  if (!widen) throw new UserError(`${path}: tensor ${name} is ${dtype}, expected F32, F16 or BF16`);
  if (isQuantized(storage)) {
    const width = transposed ? shape[0] : shape[shape.length - 1];
    const stride = rowBytes(width, storage);
    let row = 0;
    for await (const { values, elementAt } of (transposed ? columns : rows)(
      checkpoint,
      name,
      widen,
      maxBytes,
    )) {
      const { words, overflow } = quantizeRows(values, width, storage);
      if (overflow >= 0) throw tooLarge(path, name, elementAt(overflow), values[overflow]);
      yield { byte: row * stride, first: row * width, elements: values.length, words };
      row += values.length / width;
    }
    return;
  }
  if (transposed) throw new Error(`${name}: columns are only given as quantised rows`);
  let first = 0;
  // A multiple of 16 bytes holds an even number of elements of any dtype, so pairs of f16 never straddle two pieces.
  for await (const bytes of checkpoint.chunks(name, Math.max(16, maxBytes - (maxBytes % 16)))) {
    const elements = bytes.byteLength / ITEM_BYTES[dtype];
    const values = storage === "f16" && ITEM_BYTES[dtype] === 2 ? null : widen(bytes);
    if (values) checkFinite(path, name, values, first);
    let words: Float32Array | Uint32Array;
    if (storage === "f32") words = values!;
    else {
      words = packHalves(values ? floatsToHalves(values).halves : toHalves(dtype, bytes));
      const bad = firstNonFinite(words);
      if (bad >= 0) {
        const value = (values ?? widen(bytes))[bad];
        if (!Number.isFinite(value)) throw notFinite(path, name, first + bad, value);
        throw tooLarge(path, name, first + bad, value);
      }
    }
    yield { byte: rowBytes(first, storage), first, elements, words };
    first += elements;
  }
}

/** Whole rows of a matrix as f32, or columns as rows. */
interface Rows {
  readonly values: Float32Array;
  /** The index in the tensor of values[i]. */
  elementAt(i: number): number;
}

type Widen = (bytes: Uint8Array) => Float32Array;

/** A matrix row by row, each checked to be finite, in pieces of at most `maxBytes` of the file but at least a row. */
async function* rows(
  checkpoint: Checkpoint,
  name: string,
  widen: Widen,
  maxBytes: number,
): AsyncGenerator<Rows> {
  const { dtype, path, shape } = checkpoint.info(name);
  const row = shape[shape.length - 1] * ITEM_BYTES[dtype];
  let first = 0;
  for await (const bytes of checkpoint.chunks(name, Math.max(row, maxBytes - (maxBytes % row)))) {
    const start = first;
    const values = widen(bytes);
    checkFinite(path, name, values, start);
    first += values.length;
    yield { values, elementAt: (i) => start + i };
  }
}

/** A matrix column by column, in bands of at most `maxBytes`; the tensor is read once for each band. */
async function* columns(
  checkpoint: Checkpoint,
  name: string,
  widen: Widen,
  maxBytes: number,
): AsyncGenerator<Rows> {
  const [height, width] = checkpoint.info(name).shape;
  const most = Math.max(1, Math.floor(maxBytes / (4 * height)));
  for (let from = 0; from < width; from += most) {
    const count = Math.min(most, width - from);
    const values = new Float32Array(count * height);
    let row = 0;
    for await (const piece of rows(checkpoint, name, widen, maxBytes)) {
      for (let start = from; start < piece.values.length; start += width, row++) {
        for (let c = 0; c < count; c++) values[c * height + row] = piece.values[start + c];
      }
    }
    yield { values, elementAt: (i) => (i % height) * width + from + Math.floor(i / height) };
  }
}

/**
 * Rows of `width` values in memory as the words of a storage (tests, reference dumps, random weights; checkpoints go
 * through `streamWeights`, which checks what it reads).
 */
export function packWeights(
  values: Float32Array<ArrayBuffer>,
  width: number,
  storage: WeightStorage,
): Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer> {
  if (storage === "f32") return values;
  if (storage === "f16") return new Uint32Array(packHalves(floatsToHalves(values).halves));
  return quantizeRows(values, width, storage).words;
}

/** 16-bit weights as f16; a bf16 beyond f16's range becomes infinite. */
function toHalves(dtype: StoredType, bytes: Uint8Array): Uint16Array {
  const stored = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  if (dtype === "F16") return stored;
  bfloatTable ??= floatsToHalves(bfloatsToFloats(Uint16Array.from({ length: 65536 }, (_, i) => i))).halves;
  const halves = new Uint16Array(stored.length);
  for (let i = 0; i < stored.length; i++) halves[i] = bfloatTable[stored[i]];
  return halves;
}

/** The f16 of every bf16, made when first needed: a checkpoint holds billions of them. */
let bfloatTable: Uint16Array | undefined;

/** The index of the first infinite or NaN half among packed ones, or -1. */
function firstNonFinite(words: Uint32Array): number {
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    if ((word & 0x7c00) === 0x7c00) return 2 * i;
    if ((word & 0x7c000000) === 0x7c000000) return 2 * i + 1;
  }
  return -1;
}

/**
 * Checks that weights are finite numbers.
 *
 * @param first index in the tensor of values[0].
 * @throws UserError naming the file, the tensor and the element.
 */
export function checkFinite(path: string, name: string, values: Float32Array, first = 0): void {
  // The difference of a finite number to itself is 0, of the others NaN: one compare a value, no call.
  for (let i = 0; i < values.length; i++) {
    if (values[i] - values[i] !== 0) throw notFinite(path, name, first + i, values[i]);
  }
}

function notFinite(path: string, name: string, element: number, value: number): UserError {
  const what = Number.isNaN(value) ? "NaN" : "infinite";
  return new UserError(
    `${path}: tensor ${name}, element ${element} is ${what}: the checkpoint is damaged; download it again`,
  );
}

function tooLarge(path: string, name: string, element: number, value: number): UserError {
  return new UserError(
    `${path}: tensor ${name}, element ${element}: ${value} is beyond the range of f16 (+-${HALF_MAX}); ask for f32 weights`,
  );
}
