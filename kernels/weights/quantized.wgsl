// quantized: how weights of BITS = 8 or 4 bits are read. This is the one description of the layout; rowBytes in
// src/gpu/tensor.ts counts its bytes, kernels/quantize_weights.wgsl and src/llm/quantize.ts write it.
//
//   w[row, column] = scale[row, column / 64] * code[row, column] / Q       codes from -Q to Q - 1, Q = 2^(BITS - 1)
//
// A row is whole u32 words and holds all that belongs to it, so that rows can be stacked, streamed and bound in windows
// like those of any matrix:
//   ceil(width * BITS / 32) words   the codes in two's complement, 32 / BITS to a word, the first in the lowest bits
//   ceil(width / 128) words         the scales, one for 64 columns (fewer in the last group), packed f16, two to a word
// What is left of the last word of each is zero.
// Neighbouring columns share a word and a scale: a lane that takes four columns of a row (weight4; B = W, and B = W^T
// along k) reads one word and one scale; lanes that take neighbouring columns read the same words, one transaction.
// Not a kernel: src/gpu/variant.ts puts these lines in place of those between "begin weights" and "end weights" of a
// kernel, which read f32, and sets BITS.
const BITS = 8u;
const ONE_OVER_Q = 1.0 / f32(1u << (BITS - 1u));

@group(0) @binding(1) var<storage, read> weights: array<u32>;

// Words of the codes of a row of `width` columns; the scales follow.
fn code_words(width: u32) -> u32 { return (width * BITS + 31u) / 32u; }

// The first word of a row.
fn row_start(row: u32, width: u32) -> u32 { return row * (code_words(width) + (width + 127u) / 128u); }

// What a code of this column is multiplied by, in the row that starts at word `start`. Q divides here, exactly, and not in
// what is stored: 0.005 is an ordinary f16, but 0.005 / 128 a subnormal one, which a GPU may read as zero.
fn scale(start: u32, column: u32, width: u32) -> f32 {
  let pair = unpack2x16float(weights[start + code_words(width) + column / 128u]);
  return select(pair.x, pair.y, (column & 64u) == 64u) * ONE_OVER_Q;
}

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 {
  let start = row_start(row, width);
  let code = bitcast<i32>(weights[start + column * BITS / 32u]);
  return scale(start, column, width) * f32(extractBits(code, column * BITS % 32u, BITS));
}

// Elements [row, column .. column + 3]; column is a multiple of 4, so that one word holds all four.
fn weight4(row: u32, column: u32, width: u32) -> vec4f {
  let start = row_start(row, width);
  let word = weights[start + column * BITS / 32u];
  // Each code to the top of its word, and back with its sign.
  let shift = vec4u(32u - BITS - column * BITS % 32u) - vec4u(0u, BITS, 2u * BITS, 3u * BITS);
  let codes = bitcast<vec4i>(vec4u(word) << shift) >> vec4u(32u - BITS);
  return scale(start, column, width) * vec4f(codes);
}

// The same rounded to f16, two to a word.
fn weight4_halves(row: u32, column: u32, width: u32) -> vec2u {
  let values = weight4(row, column, width);
  return vec2u(pack2x16float(values.xy), pack2x16float(values.zw));
}
