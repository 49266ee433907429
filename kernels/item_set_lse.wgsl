// item_set_lse: adds a panel of the item set to the running log-sum-exp of every query.
//   logit(q, i) = scale * panel[q, i] + bias[i]
//   running[q] = (m, s, target logit): m the largest logit so far, s = sum_i exp(logit - m) over the items so far
// With `last`: lse[q] = m + log s and losses[q] = lse[q] - target logit.
// Shapes: panel [queries, pitch], dot products of the hidden states with `items` items from item `first` on, pitch a
// multiple of 4; bias [I]; targets u32, running (four f32), lse, losses [queries].
// Who calls it: crossEntropy in ops/item-set.ts, panel after panel in the order of the items.
// Tiling: a workgroup of 32 lanes a query, lanes read groups of four items and keep their own (m, s). They meet once, in
// their order, in lane 0: on software adapters a tree's barriers cost more than the steps it saves.
requires immediate_address_space;

override BIAS: bool = false;

struct Params { queries: u32, items: u32, pitch: u32, first: u32, last: u32, scale: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> panel: array<vec4f>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> running: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> losses: array<f32>;

const LANES = 32u;
const LOWEST = -3.4028234e38;
var<workgroup> largest: array<f32, 32>;
var<workgroup> sums: array<f32, 32>;

// Logits of items 4 g .. 4 g + 3 of the panel; the lowest f32 past its end.
fn logits(query: u32, g: u32) -> vec4f {
  let i = 4u * g;
  var b = vec4f(0.0);
  if (BIAS) {
    let at = params.first + i;
    let end = params.first + params.items - 1u;
    b = vec4f(bias[at], bias[min(at + 1u, end)], bias[min(at + 2u, end)], bias[min(at + 3u, end)]);
  }
  let all = fma(vec4f(params.scale), panel[query * (params.pitch >> 2u) + g], b);
  return select(vec4f(LOWEST), all, vec4u(i, i + 1u, i + 2u, i + 3u) < vec4u(params.items));
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let query = wid.y * grid.x + wid.x;
  if (query >= params.queries) { return; }
  var m = LOWEST;
  var s = 0.0;
  for (var g = index; g < (params.items + 3u) / 4u; g += LANES) {
    let x = logits(query, g);
    let most = max(m, max(max(x.x, x.y), max(x.z, x.w)));
    let e = exp(x - most);
    s = s * exp(m - most) + ((e.x + e.y) + (e.z + e.w));
    m = most;
  }
  largest[index] = m;
  sums[index] = s;
  workgroupBarrier();
  if (index > 0u) { return; }
  var state = vec4f(LOWEST, 0.0, 0.0, 0.0);
  if (params.first > 0u) { state = running[query]; }
  var most = state.x;
  let lanes = min(LANES, (params.items + 3u) / 4u);
  for (var i = 0u; i < lanes; i++) { most = max(most, largest[i]); }
  var sum = state.y * exp(state.x - most);
  for (var i = 0u; i < lanes; i++) { sum += sums[i] * exp(largest[i] - most); }
  let own = targets[query] - params.first;  // wraps past `items` when the target lies in an earlier panel
  if (own < params.items) { state.z = logits(query, own / 4u)[own % 4u]; }
  running[query] = vec4f(most, sum, state.z, 0.0);
  if (params.last == 1u) {
    lse[query] = most + log(sum);
    losses[query] = (most - state.z) + log(sum);
  }
}
