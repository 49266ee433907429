// rms_norm_forward: y[r, j] = x[r, j] * rstd[r] * w[j],   rstd[r] = 1 / sqrt(1/D sum_j x[r, j]^2 + eps)
// Shapes: x, y [R, D]; w [D]; rstd [R] (kept for the gradients). R = rows, D = GROUP width.
// Who calls it: ops/norm.ts, rmsNorm.
// Tiling: as layer_norm_forward: LANES lanes a row, 64 / LANES rows a workgroup, one barrier where LANES > 1.
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
@group(0) @binding(2) var<storage, read_write> y: array<Group>;
@group(0) @binding(3) var<storage, read_write> rstd: array<f32>;

var<workgroup> partials: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = (group.y * grid.x + group.x) * (64u / LANES) + index / LANES;
  let lane = index % LANES;
  // Lanes past the last row walk an empty row: every lane must reach the barrier.
  let start = row * params.width;
  let end = select(start, start + params.width, row < params.rows);

  var squares = Group();
  for (var i = start + lane; i < end; i += LANES) { squares += x[i] * x[i]; }
  var sum = total(squares);
  if (LANES > 1u) {
    partials[index] = sum;
    workgroupBarrier();
    let first = index - lane;
    sum = 0.0;
    for (var i = 0u; i < LANES; i++) { sum += partials[first + i]; }
  }
  let scale = 1.0 / sqrt(sum / f32(GROUP * params.width) + params.eps);

  for (var i = start + lane; i < end; i += LANES) { y[i] = x[i] * scale * w[i - start]; }
  if (lane == 0u && row < params.rows) { rstd[row] = scale; }
}
