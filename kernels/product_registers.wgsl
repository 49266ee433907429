// product_registers: C[m, n] = sum_k A(m, k) * B(k, n)  (+ bias[n])  (+ residual[m, n])  (+ C[m, n]), sums in f32.
//
// product.wgsl without workgroup memory, for adapters on which a barrier costs more than the loads it saves
// (SwiftShader: every barrier suspends and resumes each lane of the workgroup, one by one).
// Shapes, strides and parts: as product.wgsl.
// Who calls it: ops/product.ts.
// Tiling: a lane makes 8 x 4 of C in registers and reads twelve elements for 32 multiply-adds; lanes share nothing. A
// workgroup is 16 lanes side by side, 8 x 64 of C, which read the same rows of A.
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

const ROWS = 8u;

fn load_b(k: u32, n: u32) -> f32 {
  return weight(select(k, n, TRANSPOSE_B), select(n, k, TRANSPOSE_B), params.ldb);
}

@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let row = group.y * ROWS;
  let column = group.x * 64u + 4u * lane.x;
  let first = group.z * params.depth;
  let end = min(first + params.depth, params.k);
  // Rows and columns past the end read the last ones and are not stored.
  let m_step = select(params.lda, 1u, TRANSPOSE_A);
  let k_step = select(1u, params.lda, TRANSPOSE_A);
  let last = params.m - 1u;
  // Written out: SwiftShader does not unroll loops, and an array that a loop indexes costs it a gather and a scatter.
  let r0 = params.a_offset + min(row, last) * m_step;
  let r1 = params.a_offset + min(row + 1u, last) * m_step;
  let r2 = params.a_offset + min(row + 2u, last) * m_step;
  let r3 = params.a_offset + min(row + 3u, last) * m_step;
  let r4 = params.a_offset + min(row + 4u, last) * m_step;
  let r5 = params.a_offset + min(row + 5u, last) * m_step;
  let r6 = params.a_offset + min(row + 6u, last) * m_step;
  let r7 = params.a_offset + min(row + 7u, last) * m_step;
  let n = min(vec4u(column, column + 1u, column + 2u, column + 3u), vec4u(params.n - 1u));
  var s0 = vec4f();
  var s1 = vec4f();
  var s2 = vec4f();
  var s3 = vec4f();
  var s4 = vec4f();
  var s5 = vec4f();
  var s6 = vec4f();
  var s7 = vec4f();
  for (var k = first; k < end; k++) {
    let w = vec4f(load_b(k, n.x), load_b(k, n.y), load_b(k, n.z), load_b(k, n.w));
    let at = k * k_step;
    s0 = fma(vec4f(a[r0 + at]), w, s0);
    s1 = fma(vec4f(a[r1 + at]), w, s1);
    s2 = fma(vec4f(a[r2 + at]), w, s2);
    s3 = fma(vec4f(a[r3 + at]), w, s3);
    s4 = fma(vec4f(a[r4 + at]), w, s4);
    s5 = fma(vec4f(a[r5 + at]), w, s5);
    s6 = fma(vec4f(a[r6 + at]), w, s6);
    s7 = fma(vec4f(a[r7 + at]), w, s7);
  }
  var sums = array<vec4f, ROWS>(s0, s1, s2, s3, s4, s5, s6, s7);
  for (var i = 0u; i < min(ROWS, params.m - row); i++) {
    for (var j = 0u; j < 4u; j++) {
      if (column + j < params.n) {
        let at = params.c_offset + group.z * params.split_stride + (row + i) * params.ldc + column + j;
        var value = sums[i][j];
        if ((params.added & BIAS) != 0u) { value += bias[column + j]; }
        if ((params.added & RESIDUAL) != 0u) { value += residual[at]; }
        if ((params.added & ACCUMULATE) != 0u) { value += c[at]; }
        c[at] = value;
      }
    }
  }
}
