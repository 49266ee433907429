// experts_gradient: dExperts[j, e] (+)= sum over sequences s with top[s] == j of dq[s, e].
//
// The gradient of picking, for every user, the query vectors of its k active experts (paper, section 4.2): expert j
// collects from every sequence that used it, in the order of the sequences, so the sum is the same on every run.
// Shapes: dq [S, W] with W = L * d_m; top [S] (expert of each sequence); dExperts [K, W].
// Who calls it: ops/experts.ts.
// Tiling: one lane an element of dExperts; neighbouring lanes read neighbouring elements of dq; the test on top[s] is
// the same for the whole workgroup along x, so inactive experts cost only the scan.
requires immediate_address_space;

override ACCUMULATE: bool = false;

struct Params { sequences: u32, width: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> dq: array<f32>;
@group(0) @binding(1) var<storage, read> top: array<u32>;
@group(0) @binding(2) var<storage, read_write> d_experts: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let e = group.x * 64u + lane;
  let expert = group.y;
  if (e >= params.width) { return; }
  var sum = 0.0;
  for (var s = 0u; s < params.sequences; s++) {
    if (top[s] == expert) { sum += dq[s * params.width + e]; }
  }
  let at = expert * params.width + e;
  if (ACCUMULATE) { sum += d_experts[at]; }
  d_experts[at] = sum;
}
