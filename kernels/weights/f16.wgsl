// f16: how weights packed two to a u32 are read. Element i of the matrix, counted along the rows, is the lower half of
// word i / 2 when i is even and the upper half when i is odd. unpack2x16float is core WGSL: no adapter lacks it.
// Not a kernel: src/gpu/variant.ts puts these lines in place of those between "begin weights" and "end weights" of a
// kernel, which read f32.
@group(0) @binding(1) var<storage, read> weights: array<u32>;

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 {
  let i = row * width + column;
  let pair = unpack2x16float(weights[i >> 1u]);
  return select(pair.x, pair.y, (i & 1u) == 1u);
}

// Elements [row, column .. column + 3]; column and width are multiples of 4.
fn weight4(row: u32, column: u32, width: u32) -> vec4f {
  let word = (row * width + column) >> 1u;
  return vec4f(unpack2x16float(weights[word]), unpack2x16float(weights[word + 1u]));
}

// The same as f16, two to a word.
fn weight4_halves(row: u32, column: u32, width: u32) -> vec2u {
  let word = (row * width + column) >> 1u;
  return vec2u(weights[word], weights[word + 1u]);
}
