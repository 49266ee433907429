// fill: y[i] = value, for i in [0, count).
//
// Who calls it: Step in poison mode (tests), which fills every fresh arena tensor with NaN so that a kernel that
// reads what nobody wrote is caught.
// Tiling: one invocation an element, the grid spread over x and y.
requires immediate_address_space;

struct Params { count: u32, value: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * grid.x + group.x) * 256u + lane;
  if (i < params.count) { y[i] = params.value; }
}
