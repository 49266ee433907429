// router_gates: the gates of the active experts from their weights v_j = w[b, top[b, j]].
//   MODE 0 (weights)     g_j = v_j
//   MODE 1 (softmax)     g_j = exp(v_j) / sum_i exp(v_i)
//   MODE 2 (normalized)  g_j = v_j / sum_i v_i
// Shapes: w [batch, experts]; top u32 and gates [batch, chosen].
// Who calls it: gates in ops/router.ts.
// Tiling: a lane a user; k is small.
requires immediate_address_space;

override MODE: u32 = 0u;

struct Params { batch: u32, experts: u32, chosen: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read> top: array<u32>;
@group(0) @binding(2) var<storage, read_write> gates: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let user = id.x;
  if (user >= params.batch) { return; }
  let base = user * params.chosen;
  // The first is the largest: subtracting it keeps the exponentials in range.
  let most = w[user * params.experts + top[base]];
  var sum = 0.0;
  for (var j = 0u; j < params.chosen; j++) {
    let v = w[user * params.experts + top[base + j]];
    sum += select(v, exp(v - most), MODE == 1u);
  }
  for (var j = 0u; j < params.chosen; j++) {
    let v = w[user * params.experts + top[base + j]];
    gates[base + j] = select(v, select(v, exp(v - most), MODE == 1u) / sum, MODE != 0u);
  }
}
