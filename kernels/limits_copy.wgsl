// limits_copy: y[i] = x[i]: measures how many bytes a second a kernel reads and writes.
// Shapes: x and y [4 * count], seen as groups of four.
// Who calls it: bench/harness.js, as the limit that the other benchmarks give their rates a share of.
// Tiling: a lane copies one group of four; neighbouring lanes neighbouring groups.
requires immediate_address_space;

struct Params { count: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * grid.x + group.x) * 64u + lane;
  if (i < params.count) { y[i] = x[i]; }
}
