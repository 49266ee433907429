// f32: how weights in f32 are read four at a time.
// Not a kernel: src/gpu/variant.ts puts these lines in place of those between "begin weights" and "end weights" of a
// kernel, which read f32 one at a time.
@group(0) @binding(1) var<storage, read> weights: array<vec4f>;

// Elements [row, column .. column + 3]; column and width are multiples of 4.
fn weight4(row: u32, column: u32, width: u32) -> vec4f { return weights[(row * width + column) >> 2u]; }
