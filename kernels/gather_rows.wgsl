// gather_rows: y[i] = x[rows[i]], whole rows.
// Shapes: x [*, D], rows u32 [count], y [count, D]. D = GROUP width.
// Who calls it: ops/embedding.ts, gatherRows (hidden states at the suffix positions, masked positions).
// Tiling: `lanes` lanes share a row and 64 / lanes rows a workgroup, so that narrow rows leave no lane idle; rows lie on
// the grid's x and y, ranges of `span` columns on its z.
requires immediate_address_space;

// begin elements
// One at a time; kernels/elements/groups.wgsl takes groups of four.
alias Group = f32;
const GROUP = 1u;
fn total(group: Group) -> f32 { return group; }
// end elements

struct Params { count: u32, width: u32, lanes: u32, span: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<Group>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<Group>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let i = (group.y * grid.x + group.x) * (64u / params.lanes) + index / params.lanes;
  if (i >= params.count) { return; }
  let first = group.z * params.span + index % params.lanes;
  let end = min((group.z + 1u) * params.span, params.width);
  let start = rows[i] * params.width;
  for (var column = first; column < end; column += params.lanes) { y[i * params.width + column] = x[start + column]; }
}
