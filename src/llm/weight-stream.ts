import { floatsToHalves, HALF_MAX, halvesToFloats, packHalves } from "../files/half.ts";
import { WIDEN } from "../files/safetensors.ts";
import { UserError } from "../files/user-error.ts";
import type { Checkpoint } from "./checkpoint-index.ts";

/** How weights lie in GPU memory: f16 packed two to a u32, or f32. */
export type WeightStorage = "f16" | "f32";

/** A piece of a tensor, ready to be written to the GPU at element `first`. */
export interface WeightPiece {
  /** Index in the tensor of the piece's first element (always even). */
  readonly first: number;
  readonly elements: number;
  /** f32 values; or f16 pairs, element 2i in the low half of word i (a zero pads an odd last one). */
  readonly words: Float32Array | Uint32Array;
}

/**
 * A tensor's values in the storage asked for, in pieces of at most `maxBytes` of the file: neither the file nor the
 * tensor is ever whole in memory. Every value is checked on the way.
 *
 * @throws UserError naming the file, the tensor and the element: NaN or infinite, or beyond f16's range (+-65504) when
 * f16 storage was asked for.
 */
export async function* streamWeights(
  checkpoint: Checkpoint,
  name: string,
  storage: WeightStorage,
  maxBytes = 16 * 2 ** 20,
): AsyncGenerator<WeightPiece, void, undefined> {
  const { dtype, path } = checkpoint.info(name);
  const widen = WIDEN[dtype];
  if (!widen) throw new UserError(`${path}: tensor ${name} is ${dtype}, expected F32, F16 or BF16`);
  let first = 0;
  // A multiple of 16 bytes holds an even number of elements of any dtype, so pairs of f16 never straddle two pieces.
  for await (const bytes of checkpoint.chunks(name, Math.max(16, maxBytes - (maxBytes % 16)))) {
    let words: Float32Array | Uint32Array;
    let elements: number;
    if (dtype === "F16" && storage === "f16") {
      const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
      const bad = halves.findIndex((half) => (half & 0x7c00) === 0x7c00);
      if (bad >= 0)
        throw notFinite(path, name, first + bad, halvesToFloats(halves.subarray(bad, bad + 1))[0]);
      words = packHalves(halves);
      elements = halves.length;
    } else {
      const values = widen(bytes);
      checkFinite(path, name, values, first);
      elements = values.length;
      words = values;
      if (storage === "f16") {
        const { halves, overflow } = floatsToHalves(values);
        if (overflow >= 0) {
          throw new UserError(
            `${path}: tensor ${name}, element ${first + overflow}: ${values[overflow]} is beyond the range of f16 (+-${HALF_MAX}); ask for f32 weights`,
          );
        }
        words = packHalves(halves);
      }
    }
    yield { first, elements, words };
    first += elements;
  }
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
