// item_set_merge_lse: the log-sum-exp over the whole item set from those of its slabs, and the losses.
//   M = max of the m;  S = sum_slab s exp(m - M);  lse[q] = M + log S;  losses[q] = lse[q] - target_logits[q]
// Shapes: partials [slabs, queries] of (m, s); target_logits, lse, losses [queries].
// Who calls it: crossEntropy in ops/item-set-cross-entropy.ts, after item_set_walk_lse.wgsl.
// Tiling: a workgroup of 32 lanes a query: lane l adds slabs l, l + 32, ... in order, lane 0 then the lanes in order.
requires immediate_address_space;

struct Params { queries: u32, slabs: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> partials: array<vec2f>;
@group(0) @binding(1) var<storage, read> target_logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;

const LANES = 32u;
const LOWEST = -3.4028234e38;
var<workgroup> parts: array<vec2f, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let query = wid.y * grid.x + wid.x;
  if (query >= params.queries) { return; }
  var m = LOWEST;
  var s = 0.0;
  for (var slab = index; slab < params.slabs; slab += LANES) {
    let part = partials[slab * params.queries + query];
    let most = max(m, part.x);
    s = s * exp(m - most) + part.y * exp(part.x - most);
    m = most;
  }
  parts[index] = vec2f(m, s);
  workgroupBarrier();
  if (index > 0u) { return; }
  var most = LOWEST;
  for (var i = 0u; i < LANES; i++) { most = max(most, parts[i].x); }
  var sum = 0.0;
  for (var i = 0u; i < LANES; i++) { sum += parts[i].y * exp(parts[i].x - most); }
  lse[query] = most + log(sum);
  // Of two large numbers the difference is taken first.
  losses[query] = (most - target_logits[query]) + log(sum);
}
