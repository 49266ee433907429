// product_strided: C[m, n] = sum_k A(m, k) * B(k, n)  (+ bias[n])  (+ residual[m, n])  (+ C[m, n]), with any strides.
//
// The products that product_rows.wgsl and product_columns.wgsl cannot make because something is no multiple of 4, on the
// same adapters. Every orientation is one program: compiling takes seconds there, and such shapes are rare.
// Shapes: A(m, k) is element a_offset + m * a_row + k * a_step of a; B(k, n) is element [k, n] of `weights`, whose rows have
// ldb elements ([n, k] when b_transposed is not 0), f32 or, in a variant, as kernels/weights/*.wgsl say; C and residual have
// rows of ldc from element c_offset on. Workgroup z sums the k from z * depth on and writes a matrix of its own,
// split_stride elements after the one before.
// Who calls it: ops/product.ts.
// Tiling: as product_rows.wgsl with 32 rows, but every element is loaded by itself.
requires immediate_address_space;
enable subgroups;

override LANES: u32 = 8u;

// Bits of `added`: what is added to the product.
const BIAS = 1u;
const RESIDUAL = 2u;
const ACCUMULATE = 4u;

struct Params {
  m: u32, n: u32, k: u32, a_row: u32, a_step: u32, ldb: u32, b_transposed: u32, ldc: u32, a_offset: u32, c_offset: u32,
  depth: u32, split_stride: u32, added: u32,
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

// B(k, n).
fn load_b(k: u32, n: u32) -> f32 {
  let transposed = params.b_transposed != 0u;
  return weight(select(k, n, transposed), select(n, k, transposed), params.ldb);
}

// Four elements of a row of A, whose first is element `start` of a; zeros from `end` on.
fn load_a(start: u32, k: u32, end: u32) -> vec4f {
  let at = min(vec4u(k, k + 1u, k + 2u, k + 3u), vec4u(end - 1u)) * params.a_step + start;
  return select(vec4f(), vec4f(a[at.x], a[at.y], a[at.z], a[at.w]), vec4u(k, k + 1u, k + 2u, k + 3u) < vec4u(end));
}

// Four columns of the row whose elements k .. k+3 are x; b[j] holds the columns' elements at k + j.
fn dot4(sum: vec4f, x: vec4f, b: mat4x4f) -> vec4f {
  return fma(vec4f(x.w), b[3], fma(vec4f(x.z), b[2], fma(vec4f(x.y), b[1], fma(vec4f(x.x), b[0], sum))));
}

// Eight rows of C, whose elements of A are in lanes 0 .. 7 of `a`.
fn low(s: ptr<function, array<vec4f, 8>>, a: vec4f, b: mat4x4f) {
  (*s)[0] = dot4((*s)[0], subgroupBroadcast(a, 0u), b);
  (*s)[1] = dot4((*s)[1], subgroupBroadcast(a, 1u), b);
  (*s)[2] = dot4((*s)[2], subgroupBroadcast(a, 2u), b);
  (*s)[3] = dot4((*s)[3], subgroupBroadcast(a, 3u), b);
  (*s)[4] = dot4((*s)[4], subgroupBroadcast(a, 4u), b);
  (*s)[5] = dot4((*s)[5], subgroupBroadcast(a, 5u), b);
  (*s)[6] = dot4((*s)[6], subgroupBroadcast(a, 6u), b);
  (*s)[7] = dot4((*s)[7], subgroupBroadcast(a, 7u), b);
}

// The same from lanes 8 .. 15.
fn high(s: ptr<function, array<vec4f, 8>>, a: vec4f, b: mat4x4f) {
  (*s)[0] = dot4((*s)[0], subgroupBroadcast(a, 8u), b);
  (*s)[1] = dot4((*s)[1], subgroupBroadcast(a, 9u), b);
  (*s)[2] = dot4((*s)[2], subgroupBroadcast(a, 10u), b);
  (*s)[3] = dot4((*s)[3], subgroupBroadcast(a, 11u), b);
  (*s)[4] = dot4((*s)[4], subgroupBroadcast(a, 12u), b);
  (*s)[5] = dot4((*s)[5], subgroupBroadcast(a, 13u), b);
  (*s)[6] = dot4((*s)[6], subgroupBroadcast(a, 14u), b);
  (*s)[7] = dot4((*s)[7], subgroupBroadcast(a, 15u), b);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let row = group.y * 32u;
  let column = group.x * (4u * LANES) + 4u * lane;
  let first = group.z * params.depth;
  let end = min(first + params.depth, params.k);
  // Rows, columns and k past the end read the last ones: such rows and columns are not stored, such k count as zero.
  let last = params.m - 1u;
  let row0 = params.a_offset + min(row + lane, last) * params.a_row;
  let row1 = params.a_offset + min(row + LANES + lane, last) * params.a_row;
  let row2 = params.a_offset + min(row + 2u * LANES + lane, last) * params.a_row;
  let row3 = params.a_offset + min(row + 3u * LANES + lane, last) * params.a_row;
  let columns = min(vec4u(column, column + 1u, column + 2u, column + 3u), vec4u(params.n - 1u));
  var s0: array<vec4f, 8>;
  var s1: array<vec4f, 8>;
  var s2: array<vec4f, 8>;
  var s3: array<vec4f, 8>;
  for (var k = first; k < end; k += 4u) {
    var panel: mat4x4f;
    for (var i = 0u; i < 4u; i++) {
      let at = min(k + i, end - 1u);
      panel[i] =
        vec4f(load_b(at, columns.x), load_b(at, columns.y), load_b(at, columns.z), load_b(at, columns.w));
    }
    let a0 = load_a(row0, k, end);
    let a1 = load_a(row1, k, end);
    low(&s0, a0, panel);
    if (LANES == 16u) {
      high(&s1, a0, panel);
      low(&s2, a1, panel);
      high(&s3, a1, panel);
    } else {
      low(&s1, a1, panel);
      low(&s2, load_a(row2, k, end), panel);
      low(&s3, load_a(row3, k, end), panel);
    }
  }
  // As in product_rows.wgsl: a copy, and a loop that is not unrolled.
  var values: array<f32, 129>;
  for (var i = 0u; i < 8u; i++) {
    for (var j = 0u; j < 4u; j++) {
      values[4u * i + j] = s0[i][j];
      values[32u + 4u * i + j] = s1[i][j];
      values[64u + 4u * i + j] = s2[i][j];
      values[96u + 4u * i + j] = s3[i][j];
    }
  }
  let count = 4u * min(32u, params.m - row);
  for (var i = 0u; i < count; i++) {
    let n = column + (i & 3u);
    if (n < params.n) {
      let at = params.c_offset + group.z * params.split_stride + (row + (i >> 2u)) * params.ldc + n;
      var value = values[i];
      if ((params.added & BIAS) != 0u) { value += bias[n]; }
      if ((params.added & RESIDUAL) != 0u) { value += residual[at]; }
      if ((params.added & ACCUMULATE) != 0u) { value += c[at]; }
      c[at] = value;
    }
  }
}
