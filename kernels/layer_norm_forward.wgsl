// layer_norm_forward: y[r, j] = (x[r, j] - mean[r]) * rstd[r] * w[j] + b[j]
//   mean[r] = 1/D sum_j x[r, j]      rstd[r] = 1 / sqrt(1/D sum_j (x[r, j] - mean[r])^2 + eps)
// Shapes: x, y [R, D]; w, b [D]; mean, rstd [R] (kept for the gradients). R = rows, D = width.
// Who calls it: ops/norm.ts, layerNorm.
// Tiling: `lanes` lanes share a row, 64 / lanes rows share a workgroup. Narrow rows get few lanes, so that one barrier
// serves many rows. The row is read three times (mean, variance, result): the second and third reads hit the cache, and
// centring before squaring keeps the variance exact where E[x^2] - E[x]^2 would cancel.
requires immediate_address_space;

struct Params { rows: u32, width: u32, eps: f32, lanes: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> mean: array<f32>;
@group(0) @binding(5) var<storage, read_write> rstd: array<f32>;

// Two halves, one a reduction: the second reduction need not wait until everyone has read the first.
var<workgroup> partials: array<f32, 128>;

// The sum of `value` over the lanes of one row, in the order of the lanes, for each of them.
fn row_sum(value: f32, index: u32, half: u32) -> f32 {
  partials[half + index] = value;
  workgroupBarrier();
  let first = half + index - index % params.lanes;
  var sum = 0.0;
  for (var i = 0u; i < params.lanes; i++) { sum += partials[first + i]; }
  return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = (group.y * grid.x + group.x) * (64u / params.lanes) + index / params.lanes;
  let lane = index % params.lanes;
  // Lanes past the last row walk an empty row: every lane must reach the barriers.
  let start = row * params.width;
  let end = select(start, start + params.width, row < params.rows);
  let size = f32(params.width);

  var sum = 0.0;
  for (var i = start + lane; i < end; i += params.lanes) { sum += x[i]; }
  let average = row_sum(sum, index, 0u) / size;

  var squares = 0.0;
  for (var i = start + lane; i < end; i += params.lanes) {
    let centred = x[i] - average;
    squares += centred * centred;
  }
  let scale = 1.0 / sqrt(row_sum(squares, index, 64u) / size + params.eps);

  for (var i = start + lane; i < end; i += params.lanes) {
    y[i] = (x[i] - average) * scale * w[i - start] + b[i - start];
  }
  if (lane == 0u && row < params.rows) {
    mean[row] = average;
    rstd[row] = scale;
  }
}
