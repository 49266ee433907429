// head_norm_gradient: the gradient of head_norm with respect to its input,
//   dx[t, i, j] = r (g[j] - x[t, i, j] r^2 1/h sum_k g[k] x[t, i, k]),   g[j] = dy[t, i, j] * w[j'],
//   with r and j' as in head_norm.wgsl; r is computed again.
// Shapes: dy [T, heads, h]; x and dx rows of `stride` elements that begin with the heads (the rest of dx is not
// touched); w [2 h]. T = rows, h = head_size.
// Who calls it: ops/head-norm.ts, headNormGradient (Qwen3).
// Tiling: as head_norm: `lanes` lanes a head, 64 / lanes heads a workgroup, one barrier for both sums.
requires immediate_address_space;

struct Params { rows: u32, heads: u32, queries: u32, head_size: u32, stride: u32, eps: f32, lanes: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;

var<workgroup> partials: array<vec2f, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let index_of_head = (group.y * grid.x + group.x) * (64u / params.lanes) + index / params.lanes;
  let lane = index % params.lanes;
  let row = index_of_head / params.heads;
  let head = index_of_head % params.heads;
  let start = row * params.stride + head * params.head_size;
  let source_start = index_of_head * params.head_size;
  let weight = select(params.head_size, 0u, head < params.queries);
  let size = select(0u, params.head_size, row < params.rows);

  // sum of x^2 and of g x.
  var sums = vec2f(0.0);
  for (var j = lane; j < size; j += params.lanes) {
    let value = x[start + j];
    sums += vec2f(value * value, dy[source_start + j] * w[weight + j] * value);
  }
  partials[index] = sums;
  workgroupBarrier();
  let first = index - lane;
  var total = vec2f(0.0);
  for (var i = 0u; i < params.lanes; i++) { total += partials[first + i]; }
  let means = total / f32(params.head_size);
  let scale = 1.0 / sqrt(means.x + params.eps);

  for (var j = lane; j < size; j += params.lanes) {
    let g = dy[source_start + j] * w[weight + j];
    dx[start + j] = scale * (g - x[start + j] * scale * scale * means.y);
  }
}
