// swiglu: y[t, j] = silu(gate) * up,  gate = gate_up[t, j],  up = gate_up[t, F + j],  silu(g) = g / (1 + exp(-g))
// Shapes: gate_up [T, 2 F] (the output of one fused product), y [T, F]. T = rows, F = GROUP width.
// Who calls it: ops/activation.ts, swiglu.
// Tiling: `lanes` lanes share a row and 64 / lanes rows a workgroup, so that narrow rows leave no lane idle; rows lie on
// the grid's x and y, ranges of `span` groups on its z.
requires immediate_address_space;

// begin elements
// One at a time; kernels/elements/groups.wgsl takes groups of four.
alias Group = f32;
const GROUP = 1u;
fn total(group: Group) -> f32 { return group; }
// end elements

struct Params { rows: u32, width: u32, lanes: u32, span: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> gate_up: array<Group>;
@group(0) @binding(1) var<storage, read_write> y: array<Group>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = (group.y * grid.x + group.x) * (64u / params.lanes) + index / params.lanes;
  if (row >= params.rows) { return; }
  let first = group.z * params.span + index % params.lanes;
  let end = min((group.z + 1u) * params.span, params.width);
  for (var column = first; column < end; column += params.lanes) {
    let at = 2u * row * params.width + column;
    let gate = gate_up[at];
    let up = gate_up[at + params.width];
    // min: exp must not overflow; the quotient is zero to rounding long before.
    y[row * params.width + column] = gate / (1.0 + exp(min(-gate, Group(87.0)))) * up;
  }
}
