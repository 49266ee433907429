import { halfToFloat } from "../src/files/half.ts";

/**
 * The values that quantised words stand for, read bit by bit from the layout that kernels/weights/quantized.wgsl
 * describes: rows of whole words, codes in two's complement from the lowest bits on, then an f16 scale for every 64
 * columns. Shares no code with what writes or reads them for the GPU.
 */
export function dequantize(words: Uint32Array, rows: number, width: number, bits: 8 | 4): Float64Array {
  const codeWords = Math.ceil((width * bits) / 32);
  const rowWords = codeWords + Math.ceil(width / 128);
  if (words.length !== rows * rowWords)
    throw new Error(`${words.length} words for ${rows} rows of ${rowWords}`);
  const bytes = new DataView(words.buffer, words.byteOffset, words.byteLength);
  const values = new Float64Array(rows * width);
  for (let row = 0; row < rows; row++) {
    const start = 4 * row * rowWords;
    for (let column = 0; column < width; column++) {
      const scale = halfToFloat(bytes.getUint16(start + 4 * codeWords + 2 * Math.floor(column / 64), true));
      const nibbles = bytes.getUint8(start + Math.floor((column * bits) / 8));
      const unsigned = bits === 8 ? nibbles : column % 2 ? nibbles >> 4 : nibbles % 16;
      const code = unsigned >= 2 ** (bits - 1) ? unsigned - 2 ** bits : unsigned;
      values[row * width + column] = (scale * code) / 2 ** (bits - 1);
    }
  }
  return values;
}
