// item_set_walk_best: the best candidate of every group of items for every query; the scores are never written.
//   score(q, i) = h[q] . items[i] + bias[i]
//   best[q, group] = (key, id, next): the group's highest score, the lower id of equal ones, and the next highest
//   score, which may be equal; (0, 2^32 - 1, 0) without candidates
// Candidates are the items that `allowed` names and whose score is finite (the others are counted). A key is a score as an
// unsigned integer in the order of the scores, never 0. A group are the columns that one lane meets: the 4 x `tiles` items
//   (block * tiles + t) * COLUMNS + 4 x + j,  t < tiles, j < 4, of group = block * COLUMNS / 4 + x,
// so that no lane waits for another; which items make a group does not matter to the list.
// Shapes: h [queries, width]; items (`weights`) [items, width], f32 or, in a variant, as kernels/weights/f16.wgsl says,
// the window from item `first` on (a multiple of 4); bias [I]; allowed u32 [ceil(I / 32)], bit i % 32 of word i / 32 for
// item i; best u32 [3, queries, groups]; not_finite u32 [queries], zero before the first window.
// Who calls it: topItems in ops/item-set-top.ts; item_set_list.wgsl makes the lists.
// Tiling: a workgroup takes ROWS queries and a slab of items, which it walks in tiles of COLUMNS; each lane makes 4 x 4
// dot products of a tile in registers, from rows that pass through workgroup memory (as in product.wgsl; what these
// kernels share is told in docs/kernels/item-set.md). Variants have fewer rows, for few queries.
// A block of `tiles` tiles is the work of a workgroup.
requires immediate_address_space;

// Bits of `options`.
const BIAS = 1u;
const ALLOWED = 4u;

struct Params { queries: u32, items: u32, width: u32, first: u32, tiles: u32, groups: u32, options: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> allowed: array<u32>;
@group(0) @binding(4) var<storage, read_write> best: array<u32>;
@group(0) @binding(5) var<storage, read_write> not_finite: array<atomic<u32>>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<f32>;

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 { return weights[row * width + column]; }
// end weights

const NOBODY = 0xffffffffu;
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

// Whether one of the bits above is set: flags at run time, because compiling a kernel for each combination takes long.
fn with_option(bit: u32) -> bool { return (params.options & bit) != 0u; }

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
  if (!with_option(BIAS)) { return vec4f(0.0); }
  let i = min(vec4u(item) + vec4u(0u, 1u, 2u, 3u), vec4u(params.items - 1u)) + params.first;
  return vec4f(bias[i.x], bias[i.y], bias[i.z], bias[i.w]);
}

// Bits of finite scores as unsigned integers in the order of the scores; never 0. -0 counts as 0.
fn order(bits: vec4u) -> vec4u {
  let sorted = select(bits | vec4u(0x80000000u), ~bits, bits >= vec4u(0x80000000u));
  return select(sorted, vec4u(0x80000000u), (bits << vec4u(1u)) == vec4u(0u));
}

@compute @workgroup_size(LANES_X, LANES_Y)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let first_query = group.x * ROWS;
  let query = first_query + 4u * lane.y;
  var key = vec4u(0u);
  var next = vec4u(0u);
  var id = vec4u(NOBODY);
  var odd = vec4u(0u);
  let start = group.y * params.tiles * COLUMNS;
  let end = min(start + params.tiles * COLUMNS, params.items);
  for (var item = start; item < end; item += COLUMNS) {
    let sums = dots(first_query, item, lane.xy, index);
    let columns = vec4u(item + 4u * lane.x) + vec4u(0u, 1u, 2u, 3u);
    let valid = columns < vec4u(params.items);
    let b = biases(columns.x);
    var shown = valid;
    if (with_option(ALLOWED)) {
      let at = params.first + min(columns.x, params.items - 1u);
      shown &= (vec4u(allowed[at / 32u] >> (at % 32u)) & vec4u(1u, 2u, 4u, 8u)) != vec4u(0u);
    }
    for (var i = 0u; i < 4u; i++) {
      var scores = sums[i];
      if (with_option(BIAS)) { scores += b; }
      let bits = bitcast<vec4u>(scores);
      let endless = (bits & vec4u(0x7f800000u)) == vec4u(0x7f800000u);
      let counted = vec4u(valid & endless);
      odd[i] += counted.x + counted.y + counted.z + counted.w;
      let keys = select(vec4u(0u), order(bits), shown & !endless);
      let low = vec2u(min(keys.x, keys.y), min(keys.z, keys.w));
      let high = vec2u(max(keys.x, keys.y), max(keys.z, keys.w));
      let most = max(high.x, high.y);
      // The second of four: the lower of the two winners, or who lost against the other.
      let second = max(min(high.x, high.y), max(low.x, low.y));
      next[i] = max(max(next[i], second), min(key[i], most));
      // The first of equal ones has the lower id; so has what was kept before.
      let j = select(select(select(3u, 2u, keys.z == most), 1u, keys.y == most), 0u, keys.x == most);
      if (most > key[i]) {
        key[i] = most;
        id[i] = params.first + columns.x + j;
      }
    }
  }
  for (var i = 0u; i < 4u; i++) {
    if (query + i < params.queries) {
      let at = (query + i) * params.groups + group.y * LANES_X + lane.x;
      let plane = params.queries * params.groups;
      best[at] = key[i];
      best[plane + at] = id[i];
      best[2u * plane + at] = next[i];
      if (odd[i] > 0u) { atomicAdd(&not_finite[query + i], odd[i]); }
    }
  }
}
