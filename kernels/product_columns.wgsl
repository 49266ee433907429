// product_columns: C[m, n] = sum_k A[k, m] * B[k, n]  (+ C[m, n] when accumulate is not 0): the weight gradient dW = dy^T x of a
// linear layer (A = dy, B = x, K = tokens), on adapters on which every lane pays for its own memory access.
//
// Shapes: A [K, M] with rows of lda elements from a_offset on, B [K, N] with rows of ldb, C [M, N] with rows of ldc
// from c_offset on; M, N, the row lengths and the offsets are multiples of 4, K is any. Workgroup z sums the k from
// z * depth on (at most `depth` of them) and writes a matrix of its own, split_stride elements after the one before:
// a long reduction over a small C is split so that every core has work, and product_sum.wgsl adds the parts in order.
// Who calls it: ops/product.ts.
// Tiling: as product_rows.wgsl: one subgroup of LANES = 4, 8 or 16 lanes makes 32 x (4 LANES) of C, every element of A
// and B is loaded by one lane only. For one k, lanes 0 .. 7 load the 32 rows' elements of A, four each; with 16 lanes,
// lanes 8 .. 15 load those of the next k; four lanes load sixteen rows and then the other sixteen.
requires immediate_address_space;
enable subgroups;

override LANES: u32 = 8u;

struct Params {
  m: u32, n: u32, k: u32, lda: u32, ldb: u32, ldc: u32, a_offset: u32, c_offset: u32, depth: u32, split_stride: u32,
  accumulate: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> c: array<vec4f>;

// Four rows of C from element `i` of the tile on: their elements of A at one k are x, the columns' elements of B are b.
fn outer4(s: ptr<function, array<vec4f, 32>>, i: u32, x: vec4f, b: vec4f) {
  (*s)[i] = fma(vec4f(x.x), b, (*s)[i]);
  (*s)[i + 1u] = fma(vec4f(x.y), b, (*s)[i + 1u]);
  (*s)[i + 2u] = fma(vec4f(x.z), b, (*s)[i + 2u]);
  (*s)[i + 3u] = fma(vec4f(x.w), b, (*s)[i + 3u]);
}

// Sixteen rows from element `i` on at one k, whose elements of A are in lanes 0 .. 3 of `a`.
fn half(s: ptr<function, array<vec4f, 32>>, i: u32, a: vec4f, b: vec4f) {
  outer4(s, i, subgroupBroadcast(a, 0u), b);
  outer4(s, i + 4u, subgroupBroadcast(a, 1u), b);
  outer4(s, i + 8u, subgroupBroadcast(a, 2u), b);
  outer4(s, i + 12u, subgroupBroadcast(a, 3u), b);
}

// All 32 rows at one k, whose elements of A are in lanes 0 .. 7 of `a`.
fn low(s: ptr<function, array<vec4f, 32>>, a: vec4f, b: vec4f) {
  outer4(s, 0u, subgroupBroadcast(a, 0u), b);
  outer4(s, 4u, subgroupBroadcast(a, 1u), b);
  outer4(s, 8u, subgroupBroadcast(a, 2u), b);
  outer4(s, 12u, subgroupBroadcast(a, 3u), b);
  outer4(s, 16u, subgroupBroadcast(a, 4u), b);
  outer4(s, 20u, subgroupBroadcast(a, 5u), b);
  outer4(s, 24u, subgroupBroadcast(a, 6u), b);
  outer4(s, 28u, subgroupBroadcast(a, 7u), b);
}

// The same from lanes 8 .. 15.
fn high(s: ptr<function, array<vec4f, 32>>, a: vec4f, b: vec4f) {
  outer4(s, 0u, subgroupBroadcast(a, 8u), b);
  outer4(s, 4u, subgroupBroadcast(a, 9u), b);
  outer4(s, 8u, subgroupBroadcast(a, 10u), b);
  outer4(s, 12u, subgroupBroadcast(a, 11u), b);
  outer4(s, 16u, subgroupBroadcast(a, 12u), b);
  outer4(s, 20u, subgroupBroadcast(a, 13u), b);
  outer4(s, 24u, subgroupBroadcast(a, 14u), b);
  outer4(s, 28u, subgroupBroadcast(a, 15u), b);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let row = group.y * 32u;
  let column = group.x * (4u * LANES) + 4u * lane;
  let first = group.z * params.depth;
  let end = min(first + params.depth, params.k);
  let lda = params.lda >> 2u;
  let ldb = params.ldb >> 2u;
  // Rows, columns and k past the end read the last ones: such rows and columns are not stored, such k count as zero.
  let a_start = (params.a_offset + min(row + 4u * (lane % 8u), params.m - 4u)) >> 2u;
  let a_rest = (params.a_offset + min(row + 16u + 4u * lane, params.m - 4u)) >> 2u;
  let b_start = min(column, params.n - 4u) >> 2u;
  // With 16 lanes, the upper eight are one k ahead.
  let ahead = lane / 8u;
  var s: array<vec4f, 32>;
  for (var k = first; k < end; k += 4u) {
    let last = end - 1u;
    let b0 = b[b_start + k * ldb];
    let b1 = b[b_start + min(k + 1u, last) * ldb];
    let b2 = b[b_start + min(k + 2u, last) * ldb];
    let b3 = b[b_start + min(k + 3u, last) * ldb];
    if (LANES == 16u) {
      let a01 = select(vec4f(), a[a_start + min(k + ahead, last) * lda], k + ahead < end);
      let a23 = select(vec4f(), a[a_start + min(k + 2u + ahead, last) * lda], k + 2u + ahead < end);
      low(&s, a01, b0);
      high(&s, a01, b1);
      low(&s, a23, b2);
      high(&s, a23, b3);
    } else if (LANES == 4u) {
      half(&s, 0u, a[a_start + k * lda], b0);
      half(&s, 16u, a[a_rest + k * lda], b0);
      half(&s, 0u, select(vec4f(), a[a_start + min(k + 1u, last) * lda], k + 1u < end), b1);
      half(&s, 16u, select(vec4f(), a[a_rest + min(k + 1u, last) * lda], k + 1u < end), b1);
      half(&s, 0u, select(vec4f(), a[a_start + min(k + 2u, last) * lda], k + 2u < end), b2);
      half(&s, 16u, select(vec4f(), a[a_rest + min(k + 2u, last) * lda], k + 2u < end), b2);
      half(&s, 0u, select(vec4f(), a[a_start + min(k + 3u, last) * lda], k + 3u < end), b3);
      half(&s, 16u, select(vec4f(), a[a_rest + min(k + 3u, last) * lda], k + 3u < end), b3);
    } else {
      low(&s, a[a_start + k * lda], b0);
      low(&s, select(vec4f(), a[a_start + min(k + 1u, last) * lda], k + 1u < end), b1);
      low(&s, select(vec4f(), a[a_start + min(k + 2u, last) * lda], k + 2u < end), b2);
      low(&s, select(vec4f(), a[a_start + min(k + 3u, last) * lda], k + 3u < end), b3);
    }
  }
  if (column >= params.n) { return; }
  // As in product_rows.wgsl: a copy, and a loop that is not unrolled.
  var rows: array<vec4f, 33>;
  for (var i = 0u; i < 32u; i++) { rows[i] = s[i]; }
  let count = min(32u, params.m - row);
  for (var i = 0u; i < count; i++) {
    let at = (params.c_offset + group.z * params.split_stride + (row + i) * params.ldc + column) >> 2u;
    var value = rows[i];
    if (params.accumulate != 0u) { value += c[at]; }
    c[at] = value;
  }
}
