// product: C[m, n] = sum_k A(m, k) * B(k, n)  (+ bias[n])  (+ residual[m, n])
// (+ C[m, n] when ACCUMULATE), sums in f32.
//
// One kernel serves the three products of a linear layer y = x W^T + b with W [N, K]:
//   forward          y  = x  W^T        A = x,  B = W^T   (TRANSPOSE_B)
//   input gradient   dx = dy W          A = dy, B = W
//   weight gradient  dW = dy^T x        A = dy^T (TRANSPOSE_A), B = x
// Shapes: A is [M, K] with rows of lda elements ([K, M] when TRANSPOSE_A); B is [K, N] with rows of ldb ([N, K] when
// TRANSPOSE_B), f32 or packed f16 (F16_B); C is [M, N] with rows of ldc, written from element c_offset on, so that a
// weight beyond the binding limit can be taken in windows; the residual lies as C does.
// Workgroup z sums the k from z * depth on (at most `depth` of them) and writes a matrix of its own, split_stride
// elements after the one before: a long reduction over a small C is split so that the whole GPU has work, and
// product_sum.wgsl adds the parts in order.
// Who calls it: ops/product.ts.
// Tiling: a workgroup of 16 x 16 lanes makes a 64 x 64 tile of C, each lane 4 x 4 sums in registers; tiles of 16 along
// K pass through workgroup memory, so that every element is read from memory 64 times less often than naively.
requires immediate_address_space;

override TRANSPOSE_A: bool = false;
override TRANSPOSE_B: bool = false;
override F16_B: bool = false;
override BIAS: bool = false;
override RESIDUAL: bool = false;
override ACCUMULATE: bool = false;

struct Params {
  m: u32, n: u32, k: u32, lda: u32, ldb: u32, ldc: u32, a_offset: u32, c_offset: u32, depth: u32, split_stride: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;

const TILE = 64u;
const DEPTH = 16u;
// Rows are padded by one so that the lanes of a column do not meet in one memory bank.
var<workgroup> a_tile: array<f32, 16 * 65>;
var<workgroup> b_tile: array<f32, 16 * 65>;

fn load_a(m: u32, k: u32, end: u32) -> f32 {
  if (m >= params.m || k >= end) { return 0.0; }
  return a[params.a_offset + select(m * params.lda + k, k * params.lda + m, TRANSPOSE_A)];
}

fn load_b(k: u32, n: u32, end: u32) -> f32 {
  if (n >= params.n || k >= end) { return 0.0; }
  let i = select(k * params.ldb + n, n * params.ldb + k, TRANSPOSE_B);
  if (F16_B) {
    let pair = unpack2x16float(b[i >> 1u]);
    return select(pair.x, pair.y, (i & 1u) == 1u);
  }
  return bitcast<f32>(b[i]);
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = group.y * TILE;
  let column = group.x * TILE;
  let first = group.z * params.depth;
  let end = min(first + params.depth, params.k);
  var sums: array<array<f32, 4>, 4>;
  for (var depth = first; depth < end; depth += DEPTH) {
    for (var i = index; i < TILE * DEPTH; i += 256u) {
      // Neighbouring lanes read neighbouring elements of memory, whichever way the matrix lies.
      let am = select(i / DEPTH, i % TILE, TRANSPOSE_A);
      let ak = select(i % DEPTH, i / TILE, TRANSPOSE_A);
      a_tile[ak * 65u + am] = load_a(row + am, depth + ak, end);
      let bn = select(i % TILE, i / DEPTH, TRANSPOSE_B);
      let bk = select(i / TILE, i % DEPTH, TRANSPOSE_B);
      b_tile[bk * 65u + bn] = load_b(depth + bk, column + bn, end);
    }
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) {
      var bs: array<f32, 4>;
      for (var j = 0u; j < 4u; j++) { bs[j] = b_tile[k * 65u + lane.x + 16u * j]; }
      for (var i = 0u; i < 4u; i++) {
        let x = a_tile[k * 65u + lane.y * 4u + i];
        for (var j = 0u; j < 4u; j++) { sums[i][j] = fma(x, bs[j], sums[i][j]); }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < 4u; i++) {
    let m = row + lane.y * 4u + i;
    for (var j = 0u; j < 4u; j++) {
      let n = column + lane.x + 16u * j;
      if (m < params.m && n < params.n) {
        let at = params.c_offset + group.z * params.split_stride + m * params.ldc + n;
        var value = sums[i][j];
        if (BIAS) { value += bias[n]; }
        if (RESIDUAL) { value += residual[at]; }
        if (ACCUMULATE) { value += c[at]; }
        c[at] = value;
      }
    }
  }
}
