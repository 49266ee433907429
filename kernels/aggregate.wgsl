// aggregate: sum[b, i] = sum_j gates[b, j] q[b, j, i], the gate-weighted sum of the active experts' outputs, j in order.
// Shapes: q [B, chosen, block], gates [B, chosen], sum [B, block], block = L d_m, count = B block.
// Who calls it: aggregate in ops/aggregate.ts.
// Tiling: a lane an element; neighbouring lanes read neighbouring elements.
requires immediate_address_space;

struct Params { count: u32, block: u32, chosen: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> gates: array<f32>;
@group(0) @binding(2) var<storage, read_write> sum: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let at = (wid.y * grid.x + wid.x) * 64u + index;
  if (at >= params.count) { return; }
  let user = at / params.block;
  let i = at % params.block;
  var total = 0.0;
  for (var j = user * params.chosen; j < (user + 1u) * params.chosen; j++) {
    total = fma(gates[j], q[j * params.block + i], total);
  }
  sum[at] = total;
}
