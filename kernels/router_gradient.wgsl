// router_gradient: the gradient with respect to the router's logits.
//   d_logits[n, j] = p[n, j] (u[b, j] - sum_i p[n, i] u[b, i]),  u[b, j] the gradient with respect to p[n, j], n of user b:
//   gates (GATES)     u += dv / N_b at the active experts, v_j = w[b, top[b, j]], dg = d_gates[b]:
//     weights         dv_j = dg_j
//     softmax         dv_j = g_j (dg_j - sum_i g_i dg_i),   g = softmax(v)
//     normalized      dv_j = (dg_j - sum_i g_i dg_i) / sum_i v_i,   g = v / sum_i v_i
//   load balancing (BALANCE), f without gradient:
//     per user        u += coefficient K / B * counts[b, j] / N_b / N_b
//     BATCH_SCOPE     u += coefficient K * (sum_b counts[b, j] / N) / N
// Shapes: p, d_logits [N, K]; w, argmax_counts (u32) [batch, K]; top u32, d_gates [batch, k]; cu_seqlens u32 [batch + 1].
// Who calls it: routerGradient in ops/router.ts; dW_r = d_logits^T C is then a product.
// Tiling: a workgroup of 64 lanes a user: u once, a lane an expert; then a lane a position.
requires immediate_address_space;

override MODE: u32 = 0u;
override GATES: bool = false;
override BALANCE: bool = false;
override BATCH_SCOPE: bool = false;

struct Params { batch: u32, experts: u32, chosen: u32, coefficient: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> p: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> top: array<u32>;
@group(0) @binding(3) var<storage, read> argmax_counts: array<u32>;
@group(0) @binding(4) var<storage, read> cu_seqlens: array<u32>;
@group(0) @binding(5) var<storage, read> d_gates: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_logits: array<f32>;

const LANES = 64u;
var<workgroup> u: array<f32, 64>;

// dv of the active expert in place j of user `user`.
fn gate_gradient(user: u32, j: u32) -> f32 {
  let base = user * params.chosen;
  if (MODE == 0u) { return d_gates[base + j]; }
  let most = w[user * params.experts + top[base]];
  var sum = 0.0;
  var along = 0.0;
  var own = 0.0;
  for (var i = 0u; i < params.chosen; i++) {
    let v = w[user * params.experts + top[base + i]];
    let e = select(v, exp(v - most), MODE == 1u);
    sum += e;
    along += e * d_gates[base + i];
    if (i == j) { own = e; }
  }
  let difference = d_gates[base + j] - along / sum;
  return select(difference / sum, own / sum * difference, MODE == 1u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) index: u32) {
  let user = wid.x;
  let experts = params.experts;
  let first = cu_seqlens[user];
  let end = cu_seqlens[user + 1u];
  let positions = f32(end - first);
  if (index < experts) {
    var sum = 0.0;
    if (GATES) {
      for (var j = 0u; j < params.chosen; j++) {
        if (top[user * params.chosen + j] == index) { sum += gate_gradient(user, j) / positions; }
      }
    }
    if (BALANCE) {
      let scale = params.coefficient * f32(experts);
      if (BATCH_SCOPE) {
        var count = 0u;
        for (var b = 0u; b < params.batch; b++) { count += argmax_counts[b * experts + index]; }
        let total = f32(cu_seqlens[params.batch]);
        sum += scale * (f32(count) / total) / total;
      } else {
        let count = f32(argmax_counts[user * experts + index]);
        sum += scale / f32(params.batch) * (count / positions) / positions;
      }
    }
    u[index] = sum;
  }
  workgroupBarrier();
  for (var position = first + index; position < end; position += LANES) {
    let base = position * experts;
    var along = 0.0;
    for (var j = 0u; j < experts; j++) { along = fma(p[base + j], u[j], along); }
    for (var j = 0u; j < experts; j++) { d_logits[base + j] = p[base + j] * (u[j] - along); }
  }
}
