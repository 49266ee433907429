// gather_rows: y[i] = x[rows[i]], whole rows.
// Shapes: x [*, D], rows u32 [count], y [count, D]. D = width.
// Who calls it: ops/embedding.ts, gatherRows (hidden states at the suffix positions, masked positions).
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
  y[i * params.width + column] = x[rows[i] * params.width + column];
}
