// item_set_walk_lse: log-sum-exps of slabs of the item set, whose scores are never written.
//   logit(q, i) = scale * h[q] . items[i] + bias[i]
//   partials[slab, q] = (m, s): m the largest logit of the slab's items, s = sum_i exp(logit - m)
//   target_logits[q] = logit(q, targets[q]), for the targets inside the window
// Shapes: h [queries, width]; items (`weights`) [items, width], f32 or, in a variant, as kernels/weights/f16.wgsl says,
// the window from item `first` on; bias [I]; targets u32 [queries]; partials [slabs, queries] of two f32, those of this
// window from slab first_slab on; a slab has `slab` items, a multiple of COLUMNS; target_logits [queries].
// Who calls it: crossEntropy in ops/item-set-cross-entropy.ts; item_set_merge_lse.wgsl adds the slabs up.
// Tiling: a workgroup takes ROWS queries and a slab of items, which it walks in tiles of COLUMNS; each lane makes 4 x 4
// dot products of a tile in registers, from rows that pass through workgroup memory (as in product.wgsl; what these
// kernels share is told in docs/kernels/item-set.md). Variants have fewer rows, for few queries.
// Each lane keeps (m, s) of its own columns of four rows; lanes meet once, at the end of the slab, in their order.
requires immediate_address_space;

struct Params { queries: u32, items: u32, width: u32, first: u32, slab: u32, first_slab: u32, biased: u32, scale: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read_write> partials: array<vec2f>;
@group(0) @binding(5) var<storage, read_write> target_logits: array<f32>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<f32>;

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 { return weights[row * width + column]; }
// end weights

const LOWEST = -3.4028234e38;
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
  let first_query = group.x * ROWS;
  let query = first_query + 4u * lane.y;
  var own = vec4u();
  for (var i = 0u; i < 4u; i++) { own[i] = targets[min(query + i, params.queries - 1u)] - params.first; }
  var m = vec4f(LOWEST);
  var s = vec4f(0.0);
  let end = min((group.y + 1u) * params.slab, params.items);
  for (var item = group.y * params.slab; item < end; item += COLUMNS) {
    let sums = dots(first_query, item, lane.xy, index);
    let column = item + 4u * lane.x;
    let valid = vec4u(column) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.items);
    let b = biases(column);
    for (var i = 0u; i < 4u; i++) {
      let x = select(vec4f(LOWEST), fma(vec4f(params.scale), sums[i], b), valid);
      let most = max(m[i], max(max(x.x, x.y), max(x.z, x.w)));
      let e = select(vec4f(0.0), exp(x - most), valid);
      s[i] = s[i] * exp(m[i] - most) + ((e.x + e.y) + (e.z + e.w));
      m[i] = most;
      // Of all lanes and workgroups one meets the target. The difference wraps when it lies before this column.
      let j = own[i] - column;
      if (j < 4u && own[i] < params.items && query + i < params.queries) { target_logits[query + i] = x[j]; }
    }
  }
  tile[index] = m;
  tile[LANES + index] = s;
  workgroupBarrier();
  if (index >= ROWS || first_query + index >= params.queries) { return; }
  let start = index / 4u * LANES_X;
  var most = LOWEST;
  for (var x = 0u; x < LANES_X; x++) { most = max(most, tile[start + x][index % 4u]); }
  var sum = 0.0;
  for (var x = 0u; x < LANES_X; x++) {
    sum += tile[LANES + start + x][index % 4u] * exp(tile[start + x][index % 4u] - most);
  }
  partials[(params.first_slab + group.y) * params.queries + first_query + index] = vec2f(most, sum);
}
