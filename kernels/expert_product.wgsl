// expert_product: C[o, l, n] = sum over slots j of (sum_k A[a, l, k] B_e(k, n) (+ bias[e, n])), where sequence
// s = o * slots + j of the routing uses expert e = top[s] and reads the rows of sequence a = s / share.
//
// A linear layer with weights of its own for every expert (a mixture of feed-forward experts, `moe: ffn`):
//   forward          y[s]  = x[s / share] W_e^T + b_e     slots = 1; share = k where a user's experts read the same rows
//   input gradient   dx[o] = sum over j of dy[s] W_e      share = 1; slots = k where they did, else 1
// Shapes: A [*, L, K]; B [experts, N, K] (TRANSPOSE_B) or [experts, K, N]; bias [experts, N]; top u32 [S]; C [O, L, N],
// S = O * slots. L = rows, N = columns, K = depth.
// Who calls it: ops/expert-linear.ts.
// Tiling: as product.wgsl, but no tile crosses a sequence: 8 x 16 lanes make 32 rows by 64 columns of one sequence, so
// that a tile has one expert, whichever experts were chosen.
requires immediate_address_space;

override TRANSPOSE_B: bool = false;
override BIAS: bool = false;

struct Params { rows: u32, columns: u32, depth: u32, slots: u32, share: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> top: array<u32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;

const TILE_ROWS = 32u;
const TILE_COLUMNS = 64u;
const DEPTH = 16u;
// Padded to odd numbers of places a k, as in product.wgsl.
var<workgroup> a_tile: array<vec4f, 16 * 9>;
var<workgroup> b_tile: array<vec4f, 16 * 17>;

// Row l of the sequence whose first element is `start`.
fn load_a(start: u32, l: u32, k: u32) -> f32 {
  if (l >= params.rows || k >= params.depth) { return 0.0; }
  return a[start + l * params.depth + k];
}

// Column n of the expert whose first element is `start`.
fn load_b(start: u32, k: u32, n: u32) -> f32 {
  if (n >= params.columns || k >= params.depth) { return 0.0; }
  return b[start + select(k * params.columns + n, n * params.depth + k, TRANSPOSE_B)];
}

@compute @workgroup_size(16, 8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let column = group.x * TILE_COLUMNS;
  let row = group.y * TILE_ROWS;
  var sums: array<vec4f, 4>;
  for (var slot = 0u; slot < params.slots; slot++) {
    let sequence = group.z * params.slots + slot;
    let expert = top[sequence];
    let a_start = sequence / params.share * params.rows * params.depth;
    let b_start = expert * params.columns * params.depth;
    if (BIAS) {
      let n = column + 4u * lane.x;
      for (var j = 0u; j < 4u; j++) {
        let value = bias[expert * params.columns + min(n + j, params.columns - 1u)];
        for (var i = 0u; i < 4u; i++) { sums[i][j] += value; }
      }
    }
    for (var first = 0u; first < params.depth; first += DEPTH) {
      // Four rows of one k of A a lane, neighbouring lanes along k; two times four columns of one k of B, neighbouring
      // lanes along the side that lies together in memory.
      let l = row + 4u * (index / DEPTH);
      let a_k = first + index % DEPTH;
      a_tile[index % DEPTH * 9u + index / DEPTH] = vec4f(
        load_a(a_start, l, a_k), load_a(a_start, l + 1u, a_k), load_a(a_start, l + 2u, a_k), load_a(a_start, l + 3u, a_k));
      for (var half = 0u; half < 256u; half += 128u) {
        let place = index + half;
        let bn = select(place % 16u, place / DEPTH, TRANSPOSE_B);
        let bk = select(place / 16u, place % DEPTH, TRANSPOSE_B);
        let n = column + 4u * bn;
        let k = first + bk;
        b_tile[bk * 17u + bn] = vec4f(
          load_b(b_start, k, n), load_b(b_start, k, n + 1u), load_b(b_start, k, n + 2u), load_b(b_start, k, n + 3u));
      }
      workgroupBarrier();
      for (var k = 0u; k < DEPTH; k++) {
        let x = a_tile[k * 9u + lane.y];
        let w = b_tile[k * 17u + lane.x];
        for (var i = 0u; i < 4u; i++) { sums[i] = fma(vec4f(x[i]), w, sums[i]); }
      }
      workgroupBarrier();
    }
  }
  // A loop that is not unrolled over a copy of the sums, as in product.wgsl.
  var values: array<f32, 17>;
  for (var i = 0u; i < 4u; i++) {
    for (var j = 0u; j < 4u; j++) { values[4u * i + j] = sums[i][j]; }
  }
  let first_row = min(row + lane.y * 4u, params.rows);
  let count = 4u * min(4u, params.rows - first_row);
  for (var i = 0u; i < count; i++) {
    let n = column + lane.x * 4u + (i & 3u);
    if (n < params.columns) {
      c[(group.z * params.rows + first_row + (i >> 2u)) * params.columns + n] = values[i];
    }
  }
}
