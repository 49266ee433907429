// router_balance: the load-balancing loss (Eq. 7-9), K sum_j f_j w_j with f_j the share of positions whose argmax is j.
//   per user, then the mean:  loss = K / B sum_b sum_j counts[b, j] / N_b * w[b, j]
//   BATCH_SCOPE:              loss = K sum_j (sum_b counts[b, j] / N) * (sum_b N_b w[b, j] / N)
// Shapes: w and argmax_counts (u32) [batch, experts]; cu_seqlens u32 [batch + 1]; loss [1].
// Who calls it: loadBalancing in ops/router.ts.
// Tiling: one workgroup, a lane an expert; users and then experts are added in order.
requires immediate_address_space;

override BATCH_SCOPE: bool = false;

struct Params { batch: u32, experts: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read> argmax_counts: array<u32>;
@group(0) @binding(2) var<storage, read> cu_seqlens: array<u32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;

var<workgroup> terms: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) index: u32) {
  if (index < params.experts) {
    var count = 0u;
    var weights = 0.0;
    var each = 0.0;
    for (var b = 0u; b < params.batch; b++) {
      let at = b * params.experts + index;
      let positions = f32(cu_seqlens[b + 1u] - cu_seqlens[b]);
      count += argmax_counts[at];
      weights += positions * w[at];
      each += f32(argmax_counts[at]) / positions * w[at];
    }
    let total = f32(cu_seqlens[params.batch]);
    terms[index] = select(each / f32(params.batch), (f32(count) / total) * (weights / total), BATCH_SCOPE);
  }
  workgroupBarrier();
  if (index == 0u) {
    var sum = 0.0;
    for (var j = 0u; j < params.experts; j++) { sum += terms[j]; }
    loss[0] = f32(params.experts) * sum;
  }
}
