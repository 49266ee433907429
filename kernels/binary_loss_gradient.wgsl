// binary_loss_gradient: the gradient of factor * sum_t losses[t] of binary_loss.
//   dh_t = factor (slope+ true_t + slope- false_t),  dtrue_t = factor slope+ h_t,  dfalse_t = factor slope- h_t
// Shapes: h, dh [T, D]; pair, d_pair [2 T, D]; slopes [T, 2]. T = rows, D = width.
// Who calls it: ops/binary-loss.ts, binaryLossGradient.
// Tiling: `lanes` lanes share a row and 64 / lanes rows a workgroup, so that narrow rows leave no lane idle; rows lie on
// the grid's x and y, ranges of `span` columns on its z.
requires immediate_address_space;

struct Params { rows: u32, width: u32, lanes: u32, span: u32, factor: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(1) var<storage, read> pair: array<f32>;
@group(0) @binding(2) var<storage, read> slopes: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> dh: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_pair: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = (group.y * grid.x + group.x) * (64u / params.lanes) + index / params.lanes;
  if (row >= params.rows) { return; }
  let first = group.z * params.span + index % params.lanes;
  let end = min((group.z + 1u) * params.span, params.width);
  let to_false = params.rows * params.width;
  let slope = params.factor * slopes[row];
  for (var column = first; column < end; column += params.lanes) {
    let i = row * params.width + column;
    dh[i] = slope.x * pair[i] + slope.y * pair[to_false + i];
    d_pair[i] = slope.x * h[i];
    d_pair[to_false + i] = slope.y * h[i];
  }
}
