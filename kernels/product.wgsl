// product: C[m, n] = sum_k A(m, k) * B(k, n)  (+ bias[n])  (+ residual[m, n])  (+ C[m, n]), sums in f32.
//
// One kernel serves the three products of a linear layer y = x W^T + b with W [N, K]:
//   forward          y  = x  W^T        A = x,  B = W^T   (TRANSPOSE_B)
//   input gradient   dx = dy W          A = dy, B = W
//   weight gradient  dW = dy^T x        A = dy^T (TRANSPOSE_A), B = x
// Shapes: A is [M, K] with rows of lda elements ([K, M] when TRANSPOSE_A); B (`weights`) is [K, N] with rows of ldb
// ([N, K] when TRANSPOSE_B), f32 or, in a variant, as kernels/weights/*.wgsl say; C is [M, N] with rows of ldc, written
// from element c_offset on, so that a weight beyond the binding limit can be taken in windows; the residual lies as C does.
// Workgroup z sums the k from z * depth on (at most `depth` of them) and writes a matrix of its own, split_stride
// elements after the one before: a long reduction over a small C is split so that the whole GPU has work, and
// product_sum.wgsl adds the parts in order.
// Who calls it: ops/product.ts.
// Tiling: a workgroup of 16 x 16 lanes makes a 64 x 64 tile of C, each lane 4 x 4 sums in registers; tiles of 16 along
// K pass through workgroup memory, so that every element is read from memory 64 times less often than naively.
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

const TILE = 64u;
const DEPTH = 16u;
// Four rows (columns) of one k lie together, so that a lane reads its four at once. The 64 of a k take 17 places, not
// 16, so that the lanes writing one after the other do not meet in one memory bank.
var<workgroup> a_tile: array<vec4f, 16 * 17>;
var<workgroup> b_tile: array<vec4f, 16 * 17>;

fn load_a(m: u32, k: u32, end: u32) -> f32 {
  if (m >= params.m || k >= end) { return 0.0; }
  return a[params.a_offset + select(m * params.lda + k, k * params.lda + m, TRANSPOSE_A)];
}

fn load_b(k: u32, n: u32, end: u32) -> f32 {
  if (n >= params.n || k >= end) { return 0.0; }
  return weight(select(k, n, TRANSPOSE_B), select(n, k, TRANSPOSE_B), params.ldb);
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = group.y * TILE;
  let column = group.x * TILE;
  let first = group.z * params.depth;
  let end = min(first + params.depth, params.k);
  var sums: array<vec4f, 4>;
  for (var depth = first; depth < end; depth += DEPTH) {
    // Each lane brings four rows of one k of A and four columns of one k of B. Neighbouring lanes read neighbouring
    // elements of memory, whichever way the matrix lies.
    let am = select(index / DEPTH, index % 16u, TRANSPOSE_A);
    let ak = select(index % DEPTH, index / 16u, TRANSPOSE_A);
    let m = row + 4u * am;
    let a_k = depth + ak;
    a_tile[ak * 17u + am] =
      vec4f(load_a(m, a_k, end), load_a(m + 1u, a_k, end), load_a(m + 2u, a_k, end), load_a(m + 3u, a_k, end));
    let bn = select(index % 16u, index / DEPTH, TRANSPOSE_B);
    let bk = select(index / 16u, index % DEPTH, TRANSPOSE_B);
    let n = column + 4u * bn;
    let b_k = depth + bk;
    b_tile[bk * 17u + bn] =
      vec4f(load_b(b_k, n, end), load_b(b_k, n + 1u, end), load_b(b_k, n + 2u, end), load_b(b_k, n + 3u, end));
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) {
      let x = a_tile[k * 17u + lane.y];
      let w = b_tile[k * 17u + lane.x];
      for (var i = 0u; i < 4u; i++) { sums[i] = fma(vec4f(x[i]), w, sums[i]); }
    }
    workgroupBarrier();
  }
  // A loop that no compiler unrolls over a copy of the sums (see product_rows.wgsl): unrolled, the memory accesses of
  // these few lines take a software adapter 10 s to compile.
  var values: array<f32, 33>;
  for (var i = 0u; i < 4u; i++) {
    for (var j = 0u; j < 4u; j++) { values[4u * i + j] = sums[i][j]; }
  }
  let first_row = min(row + lane.y * 4u, params.m);
  let count = 4u * min(4u, params.m - first_row);
  for (var i = 0u; i < count; i++) {
    let n = column + lane.x * 4u + (i & 3u);
    if (n < params.n) {
      let at = params.c_offset + group.z * params.split_stride + (first_row + (i >> 2u)) * params.ldc + n;
      var value = values[i];
      if ((params.added & BIAS) != 0u) { value += bias[n]; }
      if ((params.added & RESIDUAL) != 0u) { value += residual[at]; }
      if ((params.added & ACCUMULATE) != 0u) { value += c[at]; }
      c[at] = value;
    }
  }
}
