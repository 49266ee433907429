import { floatToHalf, halfToFloat } from "../files/half.ts";
import { BITS, GROUP, type QuantizedType, rowBytes } from "../gpu/tensor.ts";

/** 1.5 x 2^52: a number below 2^51 in magnitude added to it and taken away again is rounded to the nearest even integer. */
const ROUNDING = 6755399441055744;

/**
 * Quantises rows of `width` values to int8 or int4, in the layout of kernels/weights/quantized.wgsl. For the values v of
 * a group of 64 columns (fewer in the last of a row), with m the first of largest magnitude and Q = 128 or 8:
 *
 *   scale = -m, its magnitude rounded up to f16        code = min(Q - 1, round(Q v / scale)), ties to even
 *
 * and v is read as scale * code / Q: m, which weighs most, takes the code -Q, for which there is no +Q. Negated values
 * give the same codes and the scale negated. A group of zeros has scale 0. The scale has the range of the values, so
 * what f16 can hold can be quantised, and where it is subnormal the error is that of f16 itself.
 *
 * @returns the words, and in `overflow` the index of the first m that is beyond f16, or -1.
 */
export function quantizeRows(
  values: Float32Array,
  width: number,
  type: QuantizedType,
): { words: Uint32Array<ArrayBuffer>; overflow: number } {
  const rows = values.length / width;
  const bits = BITS[type];
  const most = 2 ** (bits - 1);
  const mask = 2 ** bits - 1;
  const stride = rowBytes(width, type) / 4;
  const scales = Math.ceil((width * bits) / 32);
  const words = new Uint32Array(rows * stride);
  let overflow = -1;
  for (let row = 0; row < rows; row++) {
    const start = row * stride;
    for (let group = 0; group * GROUP < width; group++) {
      const first = row * width + group * GROUP;
      const end = Math.min(first + GROUP, (row + 1) * width);
      let m = 0;
      let magnitude = 0;
      let where = first;
      for (let i = first; i < end; i++) {
        const size = Math.abs(values[i]);
        if (size > magnitude) {
          magnitude = size;
          m = values[i];
          where = i;
        }
      }
      if (magnitude === 0) continue;
      const half = outwardHalf(-m);
      if ((half & 0x7fff) >= 0x7c00 && overflow < 0) overflow = where;
      words[start + scales + (group >> 1)] |= half << (16 * (group & 1));
      const scale = halfToFloat(half);
      let word = start + ((group * GROUP * bits) >> 5);
      let packed = 0;
      let shift = 0;
      for (let i = first; i < end; i++) {
        // One rounding, of the quotient: a tie stays a tie, as kernels/quantize_weights.wgsl has it.
        const code = Math.min(most - 1, (most * values[i]) / scale + ROUNDING - ROUNDING);
        packed |= (code & mask) << shift;
        shift += bits;
        if (shift === 32) {
          words[word++] = packed;
          packed = 0;
          shift = 0;
        }
      }
      if (shift) words[word] = packed;
    }
  }
  return { words, overflow };
}

/** The f16 of least magnitude that is at least the number's: what lies furthest out in a group is never cut off. */
function outwardHalf(value: number): number {
  const half = floatToHalf(value);
  return Math.abs(halfToFloat(half)) < Math.abs(value) ? half + 1 : half;
}
