// product_matrix: C[m, n] = scales[m] * sum_k A(m, k) * B(k, n)  (+ bias[n])  (+ residual[m, n])  (+ C[m, n])
// on tensor cores: subgroup matrices with f16 operands and f32 sums.
//
// Forward y = x W^T (TRANSPOSE_B) and input gradient dx = dy W of a linear layer, W [N, K] or [K, N] with rows of ldb elements
// in f32, f16, int8 or int4, read as kernels/weights/*.wgsl say and made f16; weight gradient dW = dy^T x, x in W's place.
// Shapes: A is [M, words] u32, f16 pairs with zeros past K as pack_rows.wgsl and pack_columns.wgsl write them, with scales
// f32 [M]; C f32 [M, N] with rows of ldc, written from element c_offset on; bias [N]; the residual lies as C does. Of a
// reduction in parts, `depth` long each (a multiple of 32), part z goes to element z split_stride on, for product_sum.wgsl.
// Who calls it: ops/product-matrix.ts. Needs the feature chromium-experimental-subgroup-matrix.
// Tiling: a workgroup of four subgroups makes 8 ROWS x 8 COLUMNS of C, 128 x 128 with the 16 x 16 x 16 matrices of most
// GPUs; a subgroup makes a quarter, 4 x 4 matrices of sums that stay in its registers. Steps of 32 along K pass through
// workgroup memory in groups of eight f16, rows padded by one group so that rows do not meet in one memory bank; eight
// f16 are copied at once and never taken apart. At the end the sums go through the same memory, since a matrix shows no
// lane its elements.
// ROWS, COLUMNS and DEPTH are a matrix's extents along M, N and K, SUBGROUP the lanes of a subgroup: variants say what
// the adapter has (src/gpu/subgroup-matrix.ts). The build reads this file without the bodies of its functions.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
requires immediate_address_space;
requires subgroup_id;
// All lanes of a subgroup take the same turns below; the rule that proves it does not follow subgroup_id.
diagnostic(off, chromium.subgroup_matrix_uniformity);

override TRANSPOSE_B: bool = false;
// Rows of `weights` and C's columns come in groups of four.
override GROUPED: bool = true;

// Bits of `added`: what is added to the product.
const BIAS = 1u;
const RESIDUAL = 2u;
const ACCUMULATE = 4u;

struct Params {
  m: u32, n: u32, k: u32, words: u32, ldb: u32, ldc: u32, c_offset: u32, added: u32, depth: u32, split_stride: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<vec4u>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> c: array<f32>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<f32>;

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 { return weights[row * width + column]; }

// Elements [row, column .. column + 3] as f16; column and width are multiples of 4.
fn weight4_halves(row: u32, column: u32, width: u32) -> vec2u {
  let i = row * width + column;
  return vec2u(pack2x16float(vec2f(weights[i], weights[i + 1u])), pack2x16float(vec2f(weights[i + 2u], weights[i + 3u])));
}
// end weights

const SUBGROUP = 32u;
const ROWS = 16u;
const COLUMNS = 16u;
const DEPTH = 16u;

const LANES = 4u * SUBGROUP;
// The tile of a workgroup, and the step along K; PITCH is a row of 32 in groups of eight f16, padded.
const TILE_M = 8u * ROWS;
const TILE_N = 8u * COLUMNS;
const STEP = 32u;
const PITCH = STEP / 8u + 1u;
// Rows of TILE_N, where W lies as B does.
const WIDE_PITCH = TILE_N / 8u + 1u;
const B_TILE = TILE_M * PITCH;
// A row of four matrices of sums, in groups of four f32, padded.
const SUM_PITCH = COLUMNS + 1u;
const SUM_TILE = ROWS * SUM_PITCH;

// f16 in groups of eight: STEP columns of A, then STEP rows of B; at the end, f32 sums in groups of four.
var<workgroup> tile: array<vec4u, PITCH * (TILE_M + TILE_N)>;

// Four neighbouring elements of a row of the matrix that holds the weights; zero past its `width` and its `height`.
fn four(row: u32, column: u32, height: u32, width: u32) -> vec2u {
  if (row >= height || column >= width) { return vec2u(0u); }
  if (GROUPED) { return weight4_halves(row, column, params.ldb); }
  var values = vec4f(weight(row, column, params.ldb), 0.0, 0.0, 0.0);
  if (column + 1u < width) { values.y = weight(row, column + 1u, params.ldb); }
  if (column + 2u < width) { values.z = weight(row, column + 2u, params.ldb); }
  if (column + 3u < width) { values.w = weight(row, column + 3u, params.ldb); }
  return vec2u(pack2x16float(values.xy), pack2x16float(values.zw));
}

// Eight of them.
fn eight(row: u32, column: u32, height: u32, width: u32) -> vec4u {
  return vec4u(four(row, column, height, width), four(row, column + 4u, height, width));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
  let row = group.y * TILE_M;
  let column = group.x * TILE_N;
  // The quarter of the tile that this subgroup makes.
  let own_row = (subgroup / 2u) * 4u * ROWS;
  let own_column = (subgroup % 2u) * 4u * COLUMNS;
  var sums: array<array<subgroup_matrix_result<f32, COLUMNS, ROWS>, 4>, 4>;
  let end = min(params.k, (group.z + 1u) * params.depth);
  for (var k = group.z * params.depth; k < end; k += STEP) {
    for (var v = index; v < TILE_M * 4u; v += LANES) {
      let m = row + v / 4u;
      var eight_of_a = vec4u();
      if (m < params.m) { eight_of_a = a[(m * params.words + k / 2u) / 4u + v % 4u]; }
      tile[v / 4u * PITCH + v % 4u] = eight_of_a;
    }
    for (var v = index; v < TILE_N * 4u; v += LANES) {
      if (TRANSPOSE_B) {
        tile[B_TILE + v / 4u * PITCH + v % 4u] = eight(column + v / 4u, k + v % 4u * 8u, params.n, params.k);
      } else {
        let each = TILE_N / 8u;
        tile[B_TILE + v / each * WIDE_PITCH + v % each] =
          eight(k + v / each, column + v % each * 8u, params.k, params.n);
      }
    }
    workgroupBarrier();
    for (var step = 0u; step < STEP; step += DEPTH) {
      var left: array<subgroup_matrix_left<f16, DEPTH, ROWS>, 4>;
      for (var i = 0u; i < 4u; i++) {
        left[i] = subgroupMatrixLoad<subgroup_matrix_left<f16, DEPTH, ROWS>, row_major>(
          &tile, (own_row + i * ROWS) * PITCH + step / 8u, PITCH);
      }
      for (var j = 0u; j < 4u; j++) {
        var right: subgroup_matrix_right<f16, COLUMNS, DEPTH>;
        if (TRANSPOSE_B) {
          right = subgroupMatrixLoad<subgroup_matrix_right<f16, COLUMNS, DEPTH>, col_major>(
            &tile, B_TILE + (own_column + j * COLUMNS) * PITCH + step / 8u, PITCH);
        } else {
          right = subgroupMatrixLoad<subgroup_matrix_right<f16, COLUMNS, DEPTH>, row_major>(
            &tile, B_TILE + step * WIDE_PITCH + (own_column + j * COLUMNS) / 8u, WIDE_PITCH);
        }
        for (var i = 0u; i < 4u; i++) { sums[i][j] = subgroupMatrixMultiplyAccumulate(left[i], right, sums[i][j]); }
      }
    }
    workgroupBarrier();
  }
  // Four matrices at a time, each subgroup through its own part of the memory; neighbouring lanes write neighbouring
  // columns of C.
  let own = subgroup * SUM_TILE;
  for (var i = 0u; i < 4u; i++) {
    for (var j = 0u; j < 4u; j++) {
      subgroupMatrixStore<row_major>(&tile, own + j * (COLUMNS / 4u), sums[i][j], SUM_PITCH);
    }
    workgroupBarrier();
    for (var v = lane; v < ROWS * 4u * COLUMNS; v += SUBGROUP) {
      let x = v % (4u * COLUMNS);
      let m = row + own_row + i * ROWS + v / (4u * COLUMNS);
      let n = column + own_column + x;
      if (m < params.m && n < params.n) {
        let at = params.c_offset + group.z * params.split_stride + m * params.ldc + n;
        var value = scales[m] * bitcast<f32>(tile[own + v / (4u * COLUMNS) * SUM_PITCH + x / 4u][x % 4u]);
        if ((params.added & BIAS) != 0u) { value += bias[n]; }
        if ((params.added & RESIDUAL) != 0u) { value += residual[at]; }
        if ((params.added & ACCUMULATE) != 0u) { value += c[at]; }
        c[at] = value;
      }
    }
    workgroupBarrier();
  }
}
