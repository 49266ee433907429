// product_rows: C[m, n] = sum_k A[m, k] * B(k, n)  (+ bias[n])  (+ residual[m, n])  (+ C[m, n]).
//
// For adapters on which every lane pays for its own memory access (software adapters: lavapipe takes about nine
// instructions a lane and element, against two a whole subgroup for a multiplication and an addition). Forward
// (TRANSPOSE_B: B = W^T) and input gradient (B = W) of a linear layer.
// Shapes: A [M, K] with rows of lda elements; B (`weights`) is [N, K] (TRANSPOSE_B) or [K, N] with rows of ldb, f32 or,
// in a variant, as kernels/weights/*.wgsl say; C and residual [M, N] with rows of ldc from element c_offset on. K, N,
// lda, ldb, ldc and the offsets are multiples of 4: everything is read and written in groups of four;
// ops/product-choice.ts takes kernels/product_strided.wgsl otherwise.
// Who calls it: ops/product.ts.
// Tiling: a workgroup is one subgroup of LANES = 4, 8 or 16 lanes and makes a tile of ROWS x (4 LANES) of C without
// workgroup memory and without barriers. Each lane owns four neighbouring columns and keeps ROWS x 4 sums. Every
// element of A and B is loaded by one lane only, four at a time: lane l loads its four columns of B, and rows l, l + LANES,
// ... of A for all the others, who receive them by broadcast, a register operation. The broadcasts are written out because
// the lane they read must be a literal.
requires immediate_address_space;
enable subgroups;

override TRANSPOSE_B: bool = false;
// Bits of `added`: what is added to the product. Not overrides, because every variant takes a second to compile.
const BIAS = 1u;
const RESIDUAL = 2u;
const ACCUMULATE = 4u;

struct Params {
  m: u32, n: u32, k: u32, lda: u32, ldb: u32, ldc: u32, a_offset: u32, c_offset: u32, added: u32,
  rows: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<vec4f>;

// Elements [row, column .. column + 3] of a matrix with rows of `width` elements; all are multiples of 4 but row.
fn weight4(row: u32, column: u32, width: u32) -> vec4f { return weights[(row * width + column) >> 2u]; }
// end weights

const LANES = 8u;
// 8 or 32; params.rows holds it too.
const ROWS = 32u;
// Rows whose elements the lanes hold at a time, one each.
const GROUP = min(LANES, ROWS);

// Four columns of the row whose elements k .. k+3 are x; b[j] holds the columns' elements at k + j.
fn dot4(sum: vec4f, x: vec4f, b: mat4x4f) -> vec4f {
  return fma(vec4f(x.w), b[3], fma(vec4f(x.z), b[2], fma(vec4f(x.y), b[1], fma(vec4f(x.x), b[0], sum))));
}

// GROUP rows from `base` on, whose elements are in lanes 0 .. GROUP - 1 of `a`.
fn add_rows(s: ptr<function, array<vec4f, ROWS>>, base: u32, a: vec4f, b: mat4x4f) {
  (*s)[base + 0u] = dot4((*s)[base + 0u], subgroupBroadcast(a, 0u), b); // each lane
}

// Where a row of A begins, in groups of four. Rows past the end read the last one, whose products are not stored.
fn begin(row: u32) -> u32 { return (params.a_offset + min(row, params.m - 1u) * params.lda) >> 2u; }

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let row = group.y * ROWS;
  let column = group.x * (4u * LANES) + 4u * lane;
  let row0 = begin(row + lane);
  let row1 = begin(row + GROUP + lane);
  let row2 = begin(row + 2u * GROUP + lane);
  let row3 = begin(row + 3u * GROUP + lane);
  let row4 = begin(row + 4u * GROUP + lane);
  let row5 = begin(row + 5u * GROUP + lane);
  let row6 = begin(row + 6u * GROUP + lane);
  let row7 = begin(row + 7u * GROUP + lane);
  // Columns past the end read the last ones, whose products are not stored either.
  let b_column = min(column, params.n - 4u);
  let groups = params.k >> 2u;
  var s = array<vec4f, ROWS>();
  for (var k = 0u; k < groups; k++) {
    var panel: mat4x4f;
    if (TRANSPOSE_B) {
      // Each load holds four k of one column.
      let n = b_column;
      panel = transpose(mat4x4f(weight4(n, 4u * k, params.ldb), weight4(n + 1u, 4u * k, params.ldb),
                                weight4(n + 2u, 4u * k, params.ldb), weight4(n + 3u, 4u * k, params.ldb)));
    } else {
      panel = mat4x4f(weight4(4u * k, b_column, params.ldb), weight4(4u * k + 1u, b_column, params.ldb),
                      weight4(4u * k + 2u, b_column, params.ldb), weight4(4u * k + 3u, b_column, params.ldb));
    }
    add_rows(&s, 0u, a[row0 + k], panel);
    if (ROWS > GROUP) { add_rows(&s, GROUP, a[row1 + k], panel); }
    if (ROWS > 2u * GROUP) {
      add_rows(&s, 2u * GROUP, a[row2 + k], panel);
      add_rows(&s, 3u * GROUP, a[row3 + k], panel);
    }
    if (ROWS > 4u * GROUP) {
      add_rows(&s, 4u * GROUP, a[row4 + k], panel);
      add_rows(&s, 5u * GROUP, a[row5 + k], panel);
      add_rows(&s, 6u * GROUP, a[row6 + k], panel);
      add_rows(&s, 7u * GROUP, a[row7 + k], panel);
    }
  }
  if (column >= params.n) { return; }
  // Copied because the loop below indexes dynamically, which would force the sums into memory. It must stay a loop:
  // unrolled, its memory accesses take lavapipe longer to compile than all the rest. Hence a bound it cannot know, and
  // an array longer than the 32 turns up to which it unrolls.
  var rows: array<vec4f, 33>;
  for (var i = 0u; i < ROWS; i++) { rows[i] = s[i]; }
  let end = min(params.rows, params.m - row);
  for (var i = 0u; i < end; i++) {
    let at = (params.c_offset + (row + i) * params.ldc + column) >> 2u;
    var value = rows[i];
    if ((params.added & BIAS) != 0u) { value += bias[column >> 2u]; }
    if ((params.added & RESIDUAL) != 0u) { value += residual[at]; }
    if ((params.added & ACCUMULATE) != 0u) { value += c[at]; }
    c[at] = value;
  }
}
