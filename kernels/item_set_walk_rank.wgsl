// item_set_walk_rank: how many items score above a query's target, how many exactly as it, how many not finitely; the
// scores are never written.
//   score(q, i) = h[q] . items[i] + bias[i];  counts[0 .. 2, q] += (#score > target's, #others = target's, #not finite)
// Shapes: h [queries, width]; items (`weights`) [items, width], f32 or, in a variant, as kernels/weights/f16.wgsl says,
// the window from item `first` on; bias [I]; targets u32 [queries]; target_scores [queries] of item_set_target; counts
// u32 [3, count_pitch], zero before the first window; a slab has `slab` items, a multiple of COLUMNS.
// Who calls it: rankTargets in ops/item-set-rank.ts; item_set_rank_seen.wgsl takes seen items off again.
// Tiling: a workgroup takes ROWS queries and a slab of items, which it walks in tiles of COLUMNS; each lane makes 4 x 4
// dot products of a tile in registers, from rows that pass through workgroup memory (as in product.wgsl; what these
// kernels share is told in docs/kernels/item-set.md). Variants have fewer rows, for few queries.
// Lanes count in registers and meet at the end of the slab in atomic counters: whole numbers, whose order is no matter.
requires immediate_address_space;

struct Params { queries: u32, items: u32, width: u32, first: u32, slab: u32, count_pitch: u32, biased: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read> target_scores: array<f32>;
@group(0) @binding(5) var<storage, read_write> counts: array<atomic<u32>>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<f32>;

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 { return weights[row * width + column]; }
// end weights

const ROWS = 64u;
const COLUMNS = 64u;
const DEPTH = 16u;
const LANES_X = COLUMNS / 4u;
const LANES_Y = ROWS / 4u;
const LANES = LANES_X * LANES_Y;
// Four rows (columns) of one k lie together. Each k takes one place more than it has, so that the lanes writing one after
// the other do not meet in one memory bank.
const A_PITCH = LANES_Y + 1u;
const B_PITCH = LANES_X + 1u;
const B_TILE = DEPTH * A_PITCH;
// DEPTH steps of the queries' rows, then DEPTH steps of the items'.
var<workgroup> tile: array<vec4f, DEPTH * (A_PITCH + B_PITCH)>;
var<workgroup> totals: array<atomic<u32>, 3u * ROWS>;

fn load_h(query: u32, k: u32) -> f32 {
  if (query >= params.queries || k >= params.width) { return 0.0; }
  return h[query * params.width + k];
}

fn load_item(item: u32, k: u32) -> f32 {
  if (item >= params.items || k >= params.width) { return 0.0; }
  return weight(item, k, params.width);
}

// Dot products of the queries from `query` on with the items from `item` on: result[i][j] is that of row 4 lane.y + i
// and column 4 lane.x + j. Sums run over k in order from 0, as in every product kernel. Every lane of the workgroup
// must come here; when a lane returns, all have finished reading `tile`.
fn dots(query: u32, item: u32, lane: vec2u, index: u32) -> array<vec4f, 4> {
  var sums = array<vec4f, 4>();
  for (var depth = 0u; depth < params.width; depth += DEPTH) {
    // Neighbouring lanes read neighbouring elements of a row.
    for (var v = index; v < 4u * ROWS; v += LANES) {
      let k = depth + v % DEPTH;
      let q = query + 4u * (v / DEPTH);
      tile[v % DEPTH * A_PITCH + v / DEPTH] =
        vec4f(load_h(q, k), load_h(q + 1u, k), load_h(q + 2u, k), load_h(q + 3u, k));
    }
    for (var v = index; v < 4u * COLUMNS; v += LANES) {
      let k = depth + v % DEPTH;
      let i = item + 4u * (v / DEPTH);
      tile[B_TILE + v % DEPTH * B_PITCH + v / DEPTH] =
        vec4f(load_item(i, k), load_item(i + 1u, k), load_item(i + 2u, k), load_item(i + 3u, k));
    }
    workgroupBarrier();
    // Four steps at a time, which compilers unroll; all sixteen take a software adapter three times as long to compile.
    let stop = min(depth + DEPTH, params.width);
    for (var k = depth; k < stop; k += 4u) {
      for (var n = k - depth; n < k - depth + 4u; n++) {
        let x = tile[n * A_PITCH + lane.y];
        let w = tile[B_TILE + n * B_PITCH + lane.x];
        for (var i = 0u; i < 4u; i++) { sums[i] = fma(vec4f(x[i]), w, sums[i]); }
      }
    }
    workgroupBarrier();
  }
  return sums;
}

// The bias of four items of the window from `item` on; past its end, that of its last item.
fn biases(item: u32) -> vec4f {
  if (params.biased == 0u) { return vec4f(0.0); }
  let i = min(vec4u(item) + vec4u(0u, 1u, 2u, 3u), vec4u(params.items - 1u)) + params.first;
  return vec4f(bias[i.x], bias[i.y], bias[i.z], bias[i.w]);
}

@compute @workgroup_size(LANES_X, LANES_Y)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u,
        @builtin(local_invocation_index) index: u32) {
  for (var i = index; i < 3u * ROWS; i += LANES) { atomicStore(&totals[i], 0u); }
  workgroupBarrier();
  let first_query = group.x * ROWS;
  let query = first_query + 4u * lane.y;
  var own = vec4u();
  var bar = vec4f();
  for (var i = 0u; i < 4u; i++) {
    let q = min(query + i, params.queries - 1u);
    own[i] = targets[q] - params.first;  // wraps past `items` when the target lies before the window
    bar[i] = target_scores[q];
  }
  var above = vec4u(0u);
  var equal = vec4u(0u);
  var odd = vec4u(0u);
  let end = min((group.y + 1u) * params.slab, params.items);
  for (var item = group.y * params.slab; item < end; item += COLUMNS) {
    let sums = dots(first_query, item, lane.xy, index);
    let columns = vec4u(item + 4u * lane.x) + vec4u(0u, 1u, 2u, 3u);
    let valid = columns < vec4u(params.items);
    let b = biases(columns.x);
    for (var i = 0u; i < 4u; i++) {
      var score = sums[i];
      if (params.biased == 1u) { score += b; }
      let others = valid & (columns != vec4u(own[i]));
      let higher = vec4u(others & (score > vec4f(bar[i])));
      let same = vec4u(others & (score == vec4f(bar[i])));
      let bits = bitcast<vec4u>(score) & vec4u(0x7f800000u);
      let endless = vec4u(valid & (bits == vec4u(0x7f800000u)));
      above[i] += higher.x + higher.y + higher.z + higher.w;
      equal[i] += same.x + same.y + same.z + same.w;
      odd[i] += endless.x + endless.y + endless.z + endless.w;
    }
  }
  for (var i = 0u; i < 4u; i++) {
    let row = 4u * lane.y + i;
    atomicAdd(&totals[row], above[i]);
    atomicAdd(&totals[ROWS + row], equal[i]);
    atomicAdd(&totals[2u * ROWS + row], odd[i]);
  }
  workgroupBarrier();
  for (var i = index; i < 3u * ROWS; i += LANES) {
    let count = atomicLoad(&totals[i]);
    let q = first_query + i % ROWS;
    if (count > 0u && q < params.queries) { atomicAdd(&counts[i / ROWS * params.count_pitch + q], count); }
  }
}
