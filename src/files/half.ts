/**
 * Sixteen-bit floating point on the host, where JavaScript has none: IEEE binary16 (f16: 5 bits of exponent, 10 of
 * mantissa) and bfloat16 (bf16: the upper half of an f32), as bit patterns in a Uint16Array.
 */

/** The largest finite f16. Magnitudes from 65520 (half-way to the next step) round beyond it. */
export const HALF_MAX = 65504;

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);
let widened: Float32Array | undefined;

/** The f16 bit pattern nearest to a number that is first rounded to f32 (ties to even); beyond the range, infinity. */
export function floatToHalf(value: number): number {
  float[0] = value;
  return halfBits(bits[0]);
}

/** The value of an f16 bit pattern. */
export function halfToFloat(half: number): number {
  return halfTable()[half & 0xffff];
}

/** Widens f16 bit patterns; `into` (same length) is filled and returned when given. */
export function halvesToFloats(halves: Uint16Array, into = new Float32Array(halves.length)): Float32Array {
  const table = halfTable();
  for (let i = 0; i < halves.length; i++) into[i] = table[halves[i]];
  return into;
}

/** Widens bf16 bit patterns; `into` (same length) is filled and returned when given. */
export function bfloatsToFloats(bfloats: Uint16Array, into = new Float32Array(bfloats.length)): Float32Array {
  const words = new Uint32Array(into.buffer, into.byteOffset, into.length);
  for (let i = 0; i < bfloats.length; i++) words[i] = bfloats[i] << 16;
  return into;
}

/**
 * Rounds f32 values to f16, nearest and ties to even; `into` (same length) is filled when given.
 *
 * @returns the bit patterns, and in `overflow` the index of the first finite value too large for f16 (it became
 * infinity), or -1. The caller names the tensor. Infinities and NaN of the source stay what they are.
 */
export function floatsToHalves(
  values: Float32Array,
  into = new Uint16Array(values.length),
): { halves: Uint16Array; overflow: number } {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  let overflow = -1;
  for (let i = 0; i < words.length; i++) {
    const half = halfBits(words[i]);
    into[i] = half;
    if ((half & 0x7fff) === 0x7c00 && overflow < 0 && (words[i] & 0x7fffffff) < 0x7f800000) overflow = i;
  }
  return { halves: into, overflow };
}

/**
 * Packs f16 pairs as WGSL's unpack2x16float reads them: element 2i in the low half of word i, element 2i + 1 in the
 * high half, a zero after an odd last one.
 */
export function packHalves(halves: Uint16Array): Uint32Array {
  const words = new Uint32Array(Math.ceil(halves.length / 2));
  // Every platform that Node and Dawn share is little-endian, so pairs of 16-bit patterns already lie that way.
  new Uint16Array(words.buffer).set(halves);
  return words;
}

/** f32 bit pattern to f16 bit pattern. */
function halfBits(word: number): number {
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  // NaN keeps its upper payload bits and stays NaN.
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x1ff);
  // From 65520 up, infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    // Normal: rebias the exponent (127 -> 15), drop 13 bits; a carry out of the mantissa moves into the exponent.
    const rebased = magnitude - 0x38000000;
    return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
  }
  // At most 2^-25, half of the smallest subnormal: zero (the tie goes to the even zero).
  if (magnitude <= 0x33000000) return sign;
  // Subnormal: the mantissa with its implicit one, in units of 2^-24.
  const shift = 126 - (magnitude >>> 23);
  const mantissa = (magnitude & 0x7fffff) | 0x800000;
  const kept = mantissa >>> shift;
  const rest = mantissa & ((1 << shift) - 1);
  const middle = 1 << (shift - 1);
  return sign | (kept + (rest > middle || (rest === middle && (kept & 1) === 1) ? 1 : 0));
}

function halfTable(): Float32Array {
  if (widened) return widened;
  widened = new Float32Array(65536);
  const words = new Uint32Array(widened.buffer);
  for (let half = 0; half < 65536; half++) {
    const exponent = (half >>> 10) & 31;
    const mantissa = half & 0x3ff;
    if (exponent === 0) widened[half] = (half & 0x8000 ? -1 : 1) * mantissa * 2 ** -24;
    else {
      const wide = exponent === 31 ? 255 : exponent + 112;
      words[half] = ((half & 0x8000) << 16) | (wide << 23) | (mantissa << 13);
    }
  }
  return widened;
}
