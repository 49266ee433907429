// expert_weight_gradient: dW[e, n, k] (+)= sum over sequences s with top[s] == e, and rows l, of dy[s, l, n] x[s / share, l, k].
//
// The weight gradient of expert_product.wgsl: an expert collects from the sequences that used it, in their order, so the
// sum is the same on every run; an expert that nobody chose gets zeros.
// Shapes: dy [S, L, N]; x [S / share, L, K]; top u32 [S]; dW [experts, N, K]. L = rows, N = outputs, K = inputs.
// Who calls it: ops/expert-linear.ts.
// Tiling: as product.wgsl: 16 x 16 lanes make a 64 x 64 tile of one expert's dW (z), 16 rows at a time through workgroup
// memory. The test on top[s] is the same for the whole workgroup.
requires immediate_address_space;

override ACCUMULATE: bool = false;

struct Params { sequences: u32, rows: u32, outputs: u32, inputs: u32, share: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> top: array<u32>;
@group(0) @binding(3) var<storage, read_write> dw: array<f32>;

const TILE = 64u;
const DEPTH = 16u;
var<workgroup> dy_tile: array<vec4f, 16 * 17>;
var<workgroup> x_tile: array<vec4f, 16 * 17>;

fn load_dy(row: u32, n: u32, inside: bool) -> f32 {
  if (!inside || n >= params.outputs) { return 0.0; }
  return dy[row * params.outputs + n];
}

fn load_x(row: u32, k: u32, inside: bool) -> f32 {
  if (!inside || k >= params.inputs) { return 0.0; }
  return x[row * params.inputs + k];
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let n0 = group.y * TILE;
  let k0 = group.x * TILE;
  var sums: array<vec4f, 4>;
  for (var s = 0u; s < params.sequences; s++) {
    if (top[s] != group.z) { continue; }
    for (var first = 0u; first < params.rows; first += DEPTH) {
      // Each lane brings four columns of one row of dy and of x; neighbouring lanes read along the row.
      let l = first + index / 16u;
      let inside = l < params.rows;
      let place = index / 16u * 17u + index % 16u;
      let n = n0 + 4u * (index % 16u);
      let dy_row = s * params.rows + l;
      dy_tile[place] = vec4f(load_dy(dy_row, n, inside), load_dy(dy_row, n + 1u, inside),
                             load_dy(dy_row, n + 2u, inside), load_dy(dy_row, n + 3u, inside));
      let k = k0 + 4u * (index % 16u);
      let x_row = s / params.share * params.rows + l;
      x_tile[place] = vec4f(load_x(x_row, k, inside), load_x(x_row, k + 1u, inside),
                            load_x(x_row, k + 2u, inside), load_x(x_row, k + 3u, inside));
      workgroupBarrier();
      for (var i = 0u; i < min(DEPTH, params.rows - first); i++) {
        let d = dy_tile[i * 17u + lane.y];
        let v = x_tile[i * 17u + lane.x];
        for (var j = 0u; j < 4u; j++) { sums[j] = fma(vec4f(d[j]), v, sums[j]); }
      }
      workgroupBarrier();
    }
  }
  // A loop that is not unrolled over a copy of the sums, as in product.wgsl.
  var values: array<f32, 17>;
  for (var i = 0u; i < 4u; i++) {
    for (var j = 0u; j < 4u; j++) { values[4u * i + j] = sums[i][j]; }
  }
  let first_n = min(n0 + lane.y * 4u, params.outputs);
  let count = 4u * min(4u, params.outputs - first_n);
  for (var i = 0u; i < count; i++) {
    let k = k0 + lane.x * 4u + (i & 3u);
    if (k < params.inputs) {
      let at = (group.z * params.outputs + first_n + (i >> 2u)) * params.inputs + k;
      var value = values[i];
      if (ACCUMULATE) { value += dw[at]; }
      dw[at] = value;
    }
  }
}
