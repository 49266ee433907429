// scale: y[i] = factor * x[i]
// Shapes: x, y [GROUP count].
// Who calls it: ops/elementwise.ts, scale.
// Tiling: a lane takes four elements: a group, or 256 apart, so that neighbouring lanes touch neighbouring elements.
requires immediate_address_space;

// begin elements
// One at a time; kernels/elements/groups.wgsl takes groups of four.
alias Group = f32;
const GROUP = 1u;
fn total(group: Group) -> f32 { return group; }
// end elements

struct Params { count: u32, factor: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<Group>;
@group(0) @binding(1) var<storage, read_write> y: array<Group>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let first = (group.y * grid.x + group.x) * (1024u / GROUP) + lane;
  let end = min(first + 1024u / GROUP, params.count);
  for (var i = first; i < end; i += 256u) { y[i] = params.factor * x[i]; }
}
