// rms_norm_gradient: the gradient of RMS normalisation with respect to its input,
//   dx[r, j] = rstd[r] * (g[j] - n[j] * 1/D sum_k g[k] n[k])  (+ residual[r, j])
//   with g[j] = dy[r, j] * w[j] and n[j] = x[r, j] * rstd[r].
// Shapes: dy, x, residual, dx [R, D]; w [D]; rstd [R]. R = rows, D = width.
// Who calls it: ops/norm.ts, rmsNormGradient.
// Tiling: as layer_norm_forward: `lanes` lanes a row, 64 / lanes rows a workgroup, one barrier.
requires immediate_address_space;

override RESIDUAL: bool = false;

struct Params { rows: u32, width: u32, lanes: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> rstd: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

var<workgroup> partials: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = (group.y * grid.x + group.x) * (64u / params.lanes) + index / params.lanes;
  let lane = index % params.lanes;
  let start = row * params.width;
  let end = select(start, start + params.width, row < params.rows);
  var scale = 0.0;
  if (row < params.rows) { scale = rstd[row]; }

  var sum_gn = 0.0;
  for (var i = start + lane; i < end; i += params.lanes) { sum_gn += dy[i] * w[i - start] * (x[i] * scale); }
  partials[index] = sum_gn;
  workgroupBarrier();
  let first = index - lane;
  var sum = 0.0;
  for (var i = 0u; i < params.lanes; i++) { sum += partials[first + i]; }
  let mean_gn = sum / f32(params.width);

  for (var i = start + lane; i < end; i += params.lanes) {
    var value = scale * (dy[i] * w[i - start] - x[i] * scale * mean_gn);
    if (RESIDUAL) { value += residual[i]; }
    dx[i] = value;
  }
}
