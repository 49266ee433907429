// layer_norm_gradient: the gradient of layer normalisation with respect to its input,
//   dx[r, j] = rstd[r] * (g[j] - 1/D sum_k g[k] - n[j] * 1/D sum_k g[k] n[k])  (+ residual[r, j])
//   with g[j] = dy[r, j] * w[j] and n[j] = (x[r, j] - mean[r]) * rstd[r].
// Shapes: dy, x, residual, dx [R, D]; w [D]; mean, rstd [R]. R = rows, D = GROUP width.
// Who calls it: ops/norm.ts, layerNormGradient.
// Tiling: as layer_norm_forward: LANES lanes a row, 64 / LANES rows a workgroup. Both sums come from one pass and share
// one barrier, where LANES > 1.
requires immediate_address_space;

override RESIDUAL: bool = false;
override LANES: u32 = 8u;

// begin elements
// One at a time; kernels/elements/groups.wgsl takes groups of four.
alias Group = f32;
const GROUP = 1u;
fn total(group: Group) -> f32 { return group; }
// end elements

struct Params { rows: u32, width: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> dy: array<Group>;
@group(0) @binding(1) var<storage, read> x: array<Group>;
@group(0) @binding(2) var<storage, read> w: array<Group>;
@group(0) @binding(3) var<storage, read> mean: array<f32>;
@group(0) @binding(4) var<storage, read> rstd: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<Group>;
@group(0) @binding(6) var<storage, read_write> dx: array<Group>;

var<workgroup> partials: array<vec2f, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = (group.y * grid.x + group.x) * (64u / LANES) + index / LANES;
  let lane = index % LANES;
  let start = row * params.width;
  let end = select(start, start + params.width, row < params.rows);
  var average = 0.0;
  var scale = 0.0;
  if (row < params.rows) {
    average = mean[row];
    scale = rstd[row];
  }

  var sum_g = Group();
  var sum_gn = Group();
  for (var i = start + lane; i < end; i += LANES) {
    let g = dy[i] * w[i - start];
    sum_g += g;
    sum_gn += g * ((x[i] - average) * scale);
  }
  var sums = vec2f(total(sum_g), total(sum_gn));
  if (LANES > 1u) {
    partials[index] = sums;
    workgroupBarrier();
    let first = index - lane;
    sums = vec2f();
    for (var i = 0u; i < LANES; i++) { sums += partials[first + i]; }
  }
  let means = sums / f32(GROUP * params.width);

  for (var i = start + lane; i < end; i += LANES) {
    let n = (x[i] - average) * scale;
    var value = scale * (dy[i] * w[i - start] - means.x - n * means.y);
    if (RESIDUAL) { value += residual[i]; }
    dx[i] = value;
  }
}
