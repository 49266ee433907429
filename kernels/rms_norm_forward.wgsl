// rms_norm_forward: y[r, j] = x[r, j] * rstd[r] * w[j],   rstd[r] = 1 / sqrt(1/D sum_j x[r, j]^2 + eps)
// Shapes: x, y [R, D]; w [D]; rstd [R] (kept for the gradients). R = rows, D = width.
// Who calls it: ops/norm.ts, rmsNorm.
// Tiling: as layer_norm_forward: params.lanes lanes a row, 64 / params.lanes rows a workgroup, one barrier.
requires immediate_address_space;

struct Params { rows: u32, width: u32, eps: f32, lanes: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> rstd: array<f32>;

var<workgroup> partials: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = (group.y * grid.x + group.x) * (64u / params.lanes) + index / params.lanes;
  let lane = index % params.lanes;
  // Lanes past the last row walk an empty row: every lane must reach the barrier.
  let start = row * params.width;
  let end = select(start, start + params.width, row < params.rows);

  var squares = 0.0;
  for (var i = start + lane; i < end; i += params.lanes) { squares += x[i] * x[i]; }
  partials[index] = squares;
  workgroupBarrier();
  let first = index - lane;
  var sum = 0.0;
  for (var i = 0u; i < params.lanes; i++) { sum += partials[first + i]; }
  let scale = 1.0 / sqrt(sum / f32(params.width) + params.eps);

  for (var i = start + lane; i < end; i += params.lanes) { y[i] = x[i] * scale * w[i - start]; }
  if (lane == 0u && row < params.rows) { rstd[row] = scale; }
}
