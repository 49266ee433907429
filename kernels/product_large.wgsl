// product_large: product.wgsl with four times the tile, for products large enough to fill a GPU with it.
//   C[m, n] = sum_k A(m, k) * B(k, n)  (+ bias[n])  (+ residual[m, n])  (+ C[m, n]), sums in f32
// Shapes, strides and parts: as product.wgsl.
// Who calls it: ops/product.ts.
// Tiling: a workgroup of 16 x 16 lanes makes a 128 x 128 tile of C, each lane 8 x 8 sums in registers: for one step along K
// it reads four vec4f of workgroup memory for 64 multiply-adds, where product.wgsl reads two for 16: one byte a
// multiply-add instead of two, which is what the workgroup memory of a GPU can deliver beside them.
// A lane's rows (columns) are two groups of four, 64 apart: neighbouring lanes then read neighbouring groups.
requires immediate_address_space;

override TRANSPOSE_A: bool = false;
override TRANSPOSE_B: bool = false;

// Bits of `added`: what is added to the product.
const BIAS = 1u;
const RESIDUAL = 2u;
const ACCUMULATE = 4u;

struct Params {
  m: u32, n: u32, k: u32, lda: u32, ldb: u32, ldc: u32, a_offset: u32, c_offset: u32, depth: u32, split_stride: u32,
  added: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<f32>;

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 { return weights[row * width + column]; }
// end weights

const TILE = 128u;
const DEPTH = 8u;
// Four rows (columns) of one k lie together. The 128 of a k take 33 places, not 32, so that the lanes writing one after the
// other do not meet in one memory bank.
const PITCH = 33u;
var<workgroup> a_tile: array<vec4f, DEPTH * PITCH>;
var<workgroup> b_tile: array<vec4f, DEPTH * PITCH>;

fn load_a(m: u32, k: u32, end: u32) -> f32 {
  if (m >= params.m || k >= end) { return 0.0; }
  return a[params.a_offset + select(m * params.lda + k, k * params.lda + m, TRANSPOSE_A)];
}

fn load_b(k: u32, n: u32, end: u32) -> f32 {
  if (n >= params.n || k >= end) { return 0.0; }
  return weight(select(k, n, TRANSPOSE_B), select(n, k, TRANSPOSE_B), params.ldb);
}

// Four rows more of a lane's sums, whose elements of A are x, for two groups of four columns.
fn add(s: ptr<function, array<vec4f, 16>>, first: u32, x: vec4f, w0: vec4f, w1: vec4f) {
  for (var i = 0u; i < 4u; i++) {
    (*s)[first + 2u * i] = fma(vec4f(x[i]), w0, (*s)[first + 2u * i]);
    (*s)[first + 2u * i + 1u] = fma(vec4f(x[i]), w1, (*s)[first + 2u * i + 1u]);
  }
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = group.y * TILE;
  let column = group.x * TILE;
  let first = group.z * params.depth;
  let end = min(first + params.depth, params.k);
  // Row i of a lane (0 .. 7) is at 2 i and 2 i + 1, for its two groups of columns.
  var sums: array<vec4f, 16>;
  for (var depth = first; depth < end; depth += DEPTH) {
    // Each lane brings four rows of one k of A and four columns of one k of B. Neighbouring lanes read neighbouring
    // elements of memory, whichever way the matrix lies.
    let am = select(index / DEPTH, index % 32u, TRANSPOSE_A);
    let ak = select(index % DEPTH, index / 32u, TRANSPOSE_A);
    let m = row + 4u * am;
    let a_k = depth + ak;
    a_tile[ak * PITCH + am] =
      vec4f(load_a(m, a_k, end), load_a(m + 1u, a_k, end), load_a(m + 2u, a_k, end), load_a(m + 3u, a_k, end));
    let bn = select(index % 32u, index / DEPTH, TRANSPOSE_B);
    let bk = select(index / 32u, index % DEPTH, TRANSPOSE_B);
    let n = column + 4u * bn;
    let b_k = depth + bk;
    b_tile[bk * PITCH + bn] =
      vec4f(load_b(b_k, n, end), load_b(b_k, n + 1u, end), load_b(b_k, n + 2u, end), load_b(b_k, n + 3u, end));
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) {
      let at = k * PITCH;
      let w0 = b_tile[at + lane.x];
      let w1 = b_tile[at + 16u + lane.x];
      add(&sums, 0u, a_tile[at + lane.y], w0, w1);
      add(&sums, 8u, a_tile[at + 16u + lane.y], w0, w1);
    }
    workgroupBarrier();
  }
  // A loop that no compiler unrolls over a copy of the sums: see product.wgsl.
  var values: array<f32, 65>;
  for (var i = 0u; i < 16u; i++) {
    for (var j = 0u; j < 4u; j++) { values[4u * i + j] = sums[i][j]; }
  }
  // Turn i has row i / 8 of the lane, and column i % 8; rows past the end leave later ones past it, too.
  let base = min(row + lane.y * 4u, params.m);
  let low = min(4u, params.m - base);
  let high = min(4u, params.m - min(base + 64u, params.m));
  let count = select(8u * low, 8u * (4u + high), high > 0u);
  for (var i = 0u; i < count; i++) {
    let m = base + (i >> 3u) + select(0u, 60u, i >= 32u);
    let n = column + lane.x * 4u + (i & 3u) + 16u * (i & 4u);
    if (n < params.n) {
      let at = params.c_offset + group.z * params.split_stride + m * params.ldc + n;
      var value = values[i];
      if ((params.added & BIAS) != 0u) { value += bias[n]; }
      if ((params.added & RESIDUAL) != 0u) { value += residual[at]; }
      if ((params.added & ACCUMULATE) != 0u) { value += c[at]; }
      c[at] = value;
    }
  }
}
