// layer_norm_forward: y[r, j] = (x[r, j] - mean[r]) * rstd[r] * w[j] + b[j]
//   mean[r] = 1/D sum_j x[r, j]      rstd[r] = 1 / sqrt(1/D sum_j (x[r, j] - mean[r])^2 + eps)
// Shapes: x, y [R, D]; w, b [D]; mean, rstd [R] (kept for the gradients). R = rows, D = GROUP width.
// Who calls it: ops/norm.ts, layerNorm.
// Tiling: LANES lanes share a row, 64 / LANES rows share a workgroup. Narrow rows get few lanes, so that one barrier
// serves many rows; where Gpu.sharedSubgroup is set, a row has one lane and no barrier. The row is read three times (mean,
// variance, result): the second and third reads hit the cache, and centring before squaring keeps the variance exact where
// E[x^2] - E[x]^2 would cancel.
requires immediate_address_space;

override LANES: u32 = 8u;

// begin elements
// One at a time; kernels/elements/groups.wgsl takes groups of four.
alias Group = f32;
const GROUP = 1u;
fn total(group: Group) -> f32 { return group; }
// end elements

struct Params { rows: u32, width: u32, eps: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<Group>;
@group(0) @binding(1) var<storage, read> w: array<Group>;
@group(0) @binding(2) var<storage, read> b: array<Group>;
@group(0) @binding(3) var<storage, read_write> y: array<Group>;
@group(0) @binding(4) var<storage, read_write> mean: array<f32>;
@group(0) @binding(5) var<storage, read_write> rstd: array<f32>;

// Two halves, one a reduction: the second reduction need not wait until everyone has read the first.
var<workgroup> partials: array<f32, 128>;

// The sum of `value` over the lanes of one row, in the order of the lanes, for each of them.
fn row_sum(value: f32, index: u32, half: u32) -> f32 {
  if (LANES == 1u) { return value; }
  partials[half + index] = value;
  workgroupBarrier();
  let first = half + index - index % LANES;
  var sum = 0.0;
  for (var i = 0u; i < LANES; i++) { sum += partials[first + i]; }
  return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = (group.y * grid.x + group.x) * (64u / LANES) + index / LANES;
  let lane = index % LANES;
  // Lanes past the last row walk an empty row: every lane must reach the barriers.
  let start = row * params.width;
  let end = select(start, start + params.width, row < params.rows);
  let size = f32(GROUP * params.width);

  var sum = Group();
  for (var i = start + lane; i < end; i += LANES) { sum += x[i]; }
  let average = row_sum(total(sum), index, 0u) / size;

  var squares = Group();
  for (var i = start + lane; i < end; i += LANES) {
    let centred = x[i] - average;
    squares += centred * centred;
  }
  let scale = 1.0 / sqrt(row_sum(total(squares), index, 64u) / size + params.eps);

  for (var i = start + lane; i < end; i += LANES) {
    y[i] = (x[i] - average) * scale * w[i - start] + b[i - start];
  }
  if (lane == 0u && row < params.rows) {
    mean[row] = average;
    rstd[row] = scale;
  }
}
