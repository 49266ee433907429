// item_set_rows_rank: item_set_walk_rank.wgsl for software adapters: how many items score above a query's target, how many
// exactly as it, how many not finitely; the scores are never written.
//   score(q, i) = h[q] . items[i] + bias[i];  counts[0 .. 2, q] += (#score > target's, #others = target's, #not finite)
// Shapes: h [queries, width]; items (`weights`) [items, width], f32 or, in a variant, as kernels/weights/f16.wgsl says,
// the window from item `first` on; width a multiple of 4; bias [I]; targets u32 [queries]; target_scores [queries] of
// item_set_target; counts u32 [3, count_pitch], zero before the first window; a slab has `slab` items, a multiple of
// COLUMNS.
// Who calls it: rankTargets in ops/item-set-rank.ts; item_set_rank_seen.wgsl takes seen items off again.
// Tiling: a workgroup is one subgroup of LANES lanes. It takes ROWS queries and a slab of items, which it walks in tiles
// of COLUMNS; a lane makes ROWS x 4 dot products of a tile, from elements that one lane loads and all receive by broadcast
// (as in product_rows.wgsl, which says why; what these kernels share is told in docs/kernels/item-set.md). Variants have
// fewer rows, for few queries.
// Each lane counts for every row, and lanes meet at the end of the slab: whole numbers, whose order is no matter.
requires immediate_address_space;
enable subgroups;

struct Params { queries: u32, items: u32, width: u32, first: u32, slab: u32, count_pitch: u32, biased: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read> target_scores: array<f32>;
@group(0) @binding(5) var<storage, read_write> counts: array<atomic<u32>>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<vec4f>;

// Elements [row, column .. column + 3] of a matrix with rows of `width` elements; all are multiples of 4 but row.
fn weight4(row: u32, column: u32, width: u32) -> vec4f { return weights[(row * width + column) >> 2u]; }
// end weights

const LANES = 8u;
const ROWS = 32u;
const COLUMNS = 4u * LANES;
// Rows whose elements the lanes hold at a time, one each.
const GROUP = min(LANES, ROWS);
// What loops index is longer than the turns up to which lavapipe unrolls them: unrolled, they take longer to compile than
// all the rest (docs/kernels/product.md).
const PLACES = 33u;

// Rows and columns past the end read the last ones.
fn load_row(row: u32, k: u32) -> vec4f { return h[(min(row, params.queries - 1u) * params.width + k) >> 2u]; }
fn load_column(column: u32, k: u32) -> vec4f { return weight4(min(column, params.items - 1u), k, params.width); }

// Four columns of the row whose elements k .. k+3 are x; b[j] holds the columns' elements at k + j.
fn dot4(sum: vec4f, x: vec4f, b: mat4x4f) -> vec4f {
  return fma(vec4f(x.w), b[3], fma(vec4f(x.z), b[2], fma(vec4f(x.y), b[1], fma(vec4f(x.x), b[0], sum))));
}

// GROUP rows from `base` on, whose elements are in lanes 0 .. GROUP - 1 of `a`.
fn add_rows(s: ptr<function, array<vec4f, ROWS>>, base: u32, a: vec4f, b: mat4x4f) {
  (*s)[base + 0u] = dot4((*s)[base + 0u], subgroupBroadcast(a, 0u), b); // each lane
}

// Dot products of the rows from `row` on with this lane's columns, column .. column + 3: (*sums)[i][j] is that
// of row + i and column + j. Sums run over k in order from 0, as in every product kernel.
fn dots(row: u32, column: u32, lane: u32, sums: ptr<function, array<vec4f, PLACES>>) {
  var s = array<vec4f, ROWS>();
  for (var k = 0u; k < params.width; k += 4u) {
    // Each load holds four k of one column.
    let b = transpose(mat4x4f(load_column(column, k), load_column(column + 1u, k),
                              load_column(column + 2u, k), load_column(column + 3u, k)));
    add_rows(&s, 0u, load_row(row + lane, k), b);
    if (ROWS > GROUP) { add_rows(&s, GROUP, load_row(row + GROUP + lane, k), b); }
    if (ROWS > 2u * GROUP) {
      add_rows(&s, 2u * GROUP, load_row(row + 2u * GROUP + lane, k), b);
      add_rows(&s, 3u * GROUP, load_row(row + 3u * GROUP + lane, k), b);
    }
    if (ROWS > 4u * GROUP) {
      add_rows(&s, 4u * GROUP, load_row(row + 4u * GROUP + lane, k), b);
      add_rows(&s, 5u * GROUP, load_row(row + 5u * GROUP + lane, k), b);
      add_rows(&s, 6u * GROUP, load_row(row + 6u * GROUP + lane, k), b);
      add_rows(&s, 7u * GROUP, load_row(row + 7u * GROUP + lane, k), b);
    }
  }
  for (var i = 0u; i < ROWS; i++) { (*sums)[i] = s[i]; }
}

// The bias of four items of the window from `item` on; past its end, that of its last item.
fn biases(item: u32) -> vec4f {
  if (params.biased == 0u) { return vec4f(0.0); }
  let i = min(vec4u(item) + vec4u(0u, 1u, 2u, 3u), vec4u(params.items - 1u)) + params.first;
  return vec4f(bias[i.x], bias[i.y], bias[i.z], bias[i.w]);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let query = group.x * ROWS;
  let present = min(ROWS, params.queries - query);
  var own: array<u32, PLACES>;
  var bar: array<f32, PLACES>;
  var tally: array<vec3u, PLACES>;
  for (var i = 0u; i < present; i++) {
    own[i] = targets[query + i] - params.first;  // wraps past `items` when the target lies before the window
    bar[i] = target_scores[query + i];
    tally[i] = vec3u();
  }
  let end = min((group.y + 1u) * params.slab, params.items);
  for (var item = group.y * params.slab; item < end; item += COLUMNS) {
    var sums: array<vec4f, PLACES>;
    dots(query, item + 4u * lane, lane, &sums);
    let columns = vec4u(item + 4u * lane) + vec4u(0u, 1u, 2u, 3u);
    let valid = columns < vec4u(params.items);
    let b = biases(columns.x);
    for (var i = 0u; i < present; i++) {
      var score = sums[i];
      if (params.biased == 1u) { score += b; }
      let others = valid & (columns != vec4u(own[i]));
      let higher = vec4u(others & (score > vec4f(bar[i])));
      let same = vec4u(others & (score == vec4f(bar[i])));
      let bits = bitcast<vec4u>(score) & vec4u(0x7f800000u);
      let endless = vec4u(valid & (bits == vec4u(0x7f800000u)));
      tally[i] += vec3u(higher.x + higher.y + higher.z + higher.w, same.x + same.y + same.z + same.w,
                        endless.x + endless.y + endless.z + endless.w);
    }
  }
  for (var i = 0u; i < present; i++) {
    let total = subgroupAdd(tally[i]);
    if (lane == 0u) {
      for (var n = 0u; n < 3u; n++) {
        if (total[n] > 0u) { atomicAdd(&counts[n * params.count_pitch + query + i], total[n]); }
      }
    }
  }
}
