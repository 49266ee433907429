// scatter_rows: y[rows[i]] = x[i], whole rows; the other rows of y stay as they are.
// Shapes: x [count, D], rows u32 [count], all different, y [*, D]. D = width.
// Who calls it: ops/embedding.ts, scatterRows (the gradient of gatherRows), after zeroing y.
// Tiling: one lane an element; rows on the grid's x and y, columns (64 a workgroup) on z.
requires immediate_address_space;

struct Params { count: u32, width: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = group.y * grid.x + group.x;
  let column = group.z * 64u + lane;
  if (i >= params.count || column >= params.width) { return; }
  y[rows[i] * params.width + column] = x[i * params.width + column];
}
