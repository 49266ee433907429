// item_set_rank_seen: takes the items that a query has seen off the counts of item_set_walk_rank again.
//   score(q, i) = h[q] . items[i] + bias[i];  counts[0 .. 1, q] -= (#seen > target's, #seen = target's)
// Shapes: h [queries, width]; items (`weights`) [items, width], f32 or, in a variant, as kernels/weights/f16.wgsl says,
// the window from item `first` on; bias [I]; targets u32 [queries]; target_scores [queries]; seen_offsets u32
// [queries + 1] and seen_ids u32, in which an id may stand twice and is taken off once, and the target is not; counts u32
// [3, count_pitch].
// Who calls it: rankTargets in ops/item-set-rank.ts.
// Tiling: a workgroup of 64 lanes a query, a lane a seen item. Its score is made by the sequence of fused multiply-adds
// that the product kernels do for an element, so it is, to the bit, the one that was counted.
requires immediate_address_space;

struct Params { queries: u32, items: u32, width: u32, first: u32, count_pitch: u32, biased: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read> target_scores: array<f32>;
@group(0) @binding(5) var<storage, read> seen_offsets: array<u32>;
@group(0) @binding(6) var<storage, read> seen_ids: array<u32>;
@group(0) @binding(7) var<storage, read_write> counts: array<u32>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<f32>;

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 { return weights[row * width + column]; }
// end weights

const LANES = 64u;
var<workgroup> tallies: array<vec2u, LANES>;

// Whether the same id stands in the list before place `at`.
fn repeated(begin: u32, at: u32) -> bool {
  for (var i = begin; i < at; i++) {
    if (seen_ids[i] == seen_ids[at]) { return true; }
  }
  return false;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let query = wid.y * grid.x + wid.x;
  if (query >= params.queries) { return; }
  let own = targets[query] - params.first;
  let bar = target_scores[query];
  let begin = seen_offsets[query];
  var tally = vec2u(0u);
  for (var s = begin + index; s < seen_offsets[query + 1u]; s += LANES) {
    let item = seen_ids[s] - params.first;  // wraps past `items` when it lies before the window
    if (item < params.items && item != own && !repeated(begin, s)) {
      var score = 0.0;
      for (var k = 0u; k < params.width; k++) {
        score = fma(h[query * params.width + k], weight(item, k, params.width), score);
      }
      if (params.biased == 1u) { score += bias[params.first + item]; }
      tally += vec2u(vec2<bool>(score > bar, score == bar));
    }
  }
  tallies[index] = tally;
  workgroupBarrier();
  if (index > 0u) { return; }
  var total = vec2u(0u);
  for (var i = 0u; i < LANES; i++) { total += tallies[i]; }
  counts[query] -= total.x;
  counts[params.count_pitch + query] -= total.y;
}
