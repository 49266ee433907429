// aggregate_gradient: dq[b, j, i] = gates[b, j] d_sum[b, i];  d_gates[b, j] = sum_i d_sum[b, i] q[b, j, i].
// Shapes: as aggregate; sequences = B chosen.
// Who calls it: aggregateGradient in ops/aggregate.ts.
// Tiling: a workgroup of 128 lanes a sequence (b, j); partial sums meet in a fixed tree.
requires immediate_address_space;

struct Params { sequences: u32, block: u32, chosen: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> d_sum: array<f32>;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> gates: array<f32>;
@group(0) @binding(3) var<storage, read_write> dq: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_gates: array<f32>;

const LANES = 128u;
var<workgroup> sums: array<f32, 128>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let sequence = wid.y * grid.x + wid.x;
  if (sequence >= params.sequences) { return; }
  let start = sequence / params.chosen * params.block;
  let base = sequence * params.block;
  let gate = gates[sequence];
  var sum = 0.0;
  for (var i = index; i < params.block; i += LANES) {
    let d = d_sum[start + i];
    dq[base + i] = gate * d;
    sum = fma(d, q[base + i], sum);
  }
  sums[index] = sum;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (index < half) { sums[index] += sums[index + half]; }
  }
  workgroupBarrier();
  if (index == 0u) { d_gates[sequence] = sums[0]; }
}
