// swiglu_gradient: with s = 1 / (1 + exp(-gate)),
//   d_gate_up[t, j]     = dy[t, j] * up * s * (1 + gate * (1 - s))        (the gradient of the gate)
//   d_gate_up[t, F + j] = dy[t, j] * gate * s                             (the gradient of up)
// Shapes: dy [T, F]; gate_up, d_gate_up [T, 2 F]. T = rows, F = width.
// Who calls it: ops/activation.ts, swigluGradient.
// Tiling: as swiglu: one lane a pair of gate and up; rows on the grid's x and y, columns on z.
requires immediate_address_space;

struct Params { rows: u32, width: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> gate_up: array<f32>;
@group(0) @binding(2) var<storage, read_write> d_gate_up: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  let column = group.z * 64u + lane;
  if (row >= params.rows || column >= params.width) { return; }
  let at = 2u * row * params.width + column;
  let gate = gate_up[at];
  let up = gate_up[at + params.width];
  let gradient = dy[row * params.width + column];
  let s = 1.0 / (1.0 + exp(min(-gate, 87.0)));
  d_gate_up[at] = gradient * up * s * (1.0 + gate * (1.0 - s));
  d_gate_up[at + params.width] = gradient * gate * s;
}
