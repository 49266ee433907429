// item_set_rank: how many items of a panel score above a query's target, how many exactly as it, how many not finitely.
//   score(q, i) = panel[q, i] + bias[i];  counts[0 .. 2, q] += (#score > target's, #others = target's, #not finite)
// Shapes: panel [queries, pitch], dot products with `items` items from item `first` on, pitch a multiple of 4; bias [I];
// targets u32 [queries]; target_scores [queries] of item_set_target; seen_offsets u32 [queries + 1] and seen_ids u32:
// the items left out of the first two counts; an id may stand in a list twice; counts u32 [3, count_pitch], added to from
// the second panel on.
// Who calls it: rankTargets in ops/item-set-rank.ts.
// Tiling: a workgroup of 32 lanes a query, lanes read groups of four items; then they take what the query has seen in
// this panel off again. They meet once, in lane 0.
requires immediate_address_space;

override BIAS: bool = false;
override SEEN: bool = false;

struct Params { queries: u32, items: u32, pitch: u32, first: u32, count_pitch: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> panel: array<vec4f>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read> target_scores: array<f32>;
@group(0) @binding(4) var<storage, read> seen_offsets: array<u32>;
@group(0) @binding(5) var<storage, read> seen_ids: array<u32>;
@group(0) @binding(6) var<storage, read_write> counts: array<u32>;

const LANES = 32u;
var<workgroup> tallies: array<vec3u, 32>;

// Score of item i of the panel, whose dot product is x.
fn with_bias(x: f32, i: u32) -> f32 {
  if (BIAS) { return x + bias[params.first + i]; }
  return x;
}

// Whether the same id stands in the list before place `at`.
fn repeated(begin: u32, at: u32) -> bool {
  for (var i = begin; i < at; i++) {
    if (seen_ids[i] == seen_ids[at]) { return true; }
  }
  return false;
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let query = wid.y * grid.x + wid.x;
  if (query >= params.queries) { return; }
  let base = query * (params.pitch >> 2u);
  let own = targets[query] - params.first;  // wraps past `items` when the target lies in another panel
  let bar = target_scores[query];
  var tally = vec3u(0u);
  for (var g = index; g < (params.items + 3u) / 4u; g += LANES) {
    let x = panel[base + g];
    for (var j = 0u; j < 4u; j++) {
      let i = 4u * g + j;
      if (i < params.items) {
        let score = with_bias(x[j], i);
        let bits = bitcast<u32>(score) & 0x7f800000u;
        tally += vec3u(vec3<bool>(i != own && score > bar, i != own && score == bar, bits == 0x7f800000u));
      }
    }
  }
  if (SEEN) {
    let begin = seen_offsets[query];
    for (var s = begin + index; s < seen_offsets[query + 1u]; s += LANES) {
      let i = seen_ids[s] - params.first;
      if (i < params.items && i != own && !repeated(begin, s)) {
        let score = with_bias(panel[base + i / 4u][i % 4u], i);
        tally -= vec3u(vec3<bool>(score > bar, score == bar, false));
      }
    }
  }
  // A lane's count may pass below zero and wrap; the sum does not.
  tallies[index] = tally;
  workgroupBarrier();
  if (index > 0u) { return; }
  var total = vec3u(0u);
  for (var i = 0u; i < LANES; i++) { total += tallies[i]; }
  for (var j = 0u; j < 3u; j++) {
    let at = j * params.count_pitch + query;
    counts[at] = select(0u, counts[at], params.first > 0u) + total[j];
  }
}
