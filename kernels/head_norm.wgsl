// head_norm: RMS normalisation of every query and key head by itself,
//   y[t, i, j] = x[t, i, j] * r * w[j'],   r = 1 / sqrt(1/h sum_j x[t, i, j]^2 + eps),
//   j' = j for the first `queries` heads, h + j for the others (the keys).
// Shapes: x rows of `stride` elements that begin with the heads; y [T, heads, h]; w [2 h]. T = rows, h = head_size.
// Who calls it: ops/head-norm.ts, headNorm (Qwen3).
// Tiling: `lanes` lanes a head, 64 / lanes heads a workgroup, one barrier.
requires immediate_address_space;

struct Params { rows: u32, heads: u32, queries: u32, head_size: u32, stride: u32, eps: f32, lanes: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

var<workgroup> partials: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let index_of_head = (group.y * grid.x + group.x) * (64u / params.lanes) + index / params.lanes;
  let lane = index % params.lanes;
  let row = index_of_head / params.heads;
  let head = index_of_head % params.heads;
  let start = row * params.stride + head * params.head_size;
  // Lanes past the last head walk an empty one: every lane must reach the barrier.
  let size = select(0u, params.head_size, row < params.rows);

  var squares = 0.0;
  for (var j = lane; j < size; j += params.lanes) { squares += x[start + j] * x[start + j]; }
  partials[index] = squares;
  workgroupBarrier();
  let first = index - lane;
  var sum = 0.0;
  for (var i = 0u; i < params.lanes; i++) { sum += partials[first + i]; }
  let scale = 1.0 / sqrt(sum / f32(params.head_size) + params.eps);

  let weight = select(params.head_size, 0u, head < params.queries);
  let target_start = index_of_head * params.head_size;
  for (var j = lane; j < size; j += params.lanes) { y[target_start + j] = x[start + j] * scale * w[weight + j]; }
}
