// item_set_rows_gradient: the gradient of the cross-entropies on software adapters, the scores made again tile by tile
// and never written.
//   logit(q, i) = scale * h[q] . items[i] + bias[i]
//   g(q, i) = scale * d_losses[q] * (exp(logit(q, i) - lse[q]) - [i = targets[q]])
//   out[slab, q, :] (+)= sum_i g(q, i) items[i, :]     over a slab of items
//   d_items[i, :] (+)= sum_q g(q, i) h[q, :]           with ITEMS
//   d_bias[i] (+)= sum_q g(q, i) / scale               with ITEMS and BIAS_GRADIENT
// Shapes: h [queries, width]; items (`weights`) [items, width], f32 or, in a variant, as kernels/weights/f16.wgsl says,
// the window from item `first` on; width a multiple of 4; bias [I]; terms u32 [queries, 4] of item_set_terms.wgsl; out
// [slabs, queries, width]; d_items [items, width] and d_bias [items] begin with this window. A slab has `slab` items, a
// multiple of COLUMNS. With ACCUMULATE the sums are added to what is in out, with ACCUMULATE_ITEMS to what is in the
// others.
// Who calls it: crossEntropyGradient in ops/item-set-gradient.ts, which adds the slabs up (product_sum.wgsl).
// Tiling: a workgroup is one subgroup of LANES lanes. It walks its slab in tiles of ROWS queries x COLUMNS items: those
// of group.x, or with ITEMS all queries, so that the items are its own. Dot products of a tile are made as in
// item_set_rows_lse.wgsl, ROWS x 4 a lane. The lanes turn them into g, put g into workgroup memory (a broadcast needs a
// literal lane, and here every lane has a turn), and multiply it with the tile's items, and with ITEMS its transpose
// with the tile's queries, by the same broadcasts, COLUMNS elements of the width at a time. The results are added to
// memory: width may be 4096, too much for registers. A lane always meets its own elements there again, so they need no
// barrier. No atomics, every sum in a fixed order. Variants have fewer rows, for few queries.
requires immediate_address_space;
enable subgroups;

override ITEMS: bool = false;

// Bits of `options`.
const BIAS = 1u;
const BIAS_GRADIENT = 2u;
const ACCUMULATE = 4u;
const ACCUMULATE_ITEMS = 8u;

struct Params { queries: u32, items: u32, width: u32, first: u32, slab: u32, options: u32, scale: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> terms: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> d_items: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> d_bias: array<f32>;

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


// g of a tile, four neighbours together: those of row r and the four columns of lane l at r * LANES + l; from
// TRANSPOSED on, those of column c and the rows 4 n .. 4 n + 3 at c * (ROWS / 4) + n.
const TRANSPOSED = ROWS * LANES;
var<workgroup> g_tile: array<vec4f, 2u * ROWS * LANES>;

// Whether one of the bits above is set: flags at run time, because compiling a kernel for each combination takes long.
fn with_option(bit: u32) -> bool { return (params.options & bit) != 0u; }

// The bias of four items of the window from `item` on; past its end, that of its last item.
fn biases(item: u32) -> vec4f {
  if (!with_option(BIAS)) { return vec4f(0.0); }
  let i = min(vec4u(item) + vec4u(0u, 1u, 2u, 3u), vec4u(params.items - 1u)) + params.first;
  return vec4f(bias[i.x], bias[i.y], bias[i.z], bias[i.w]);
}

// What g needs of a query, as bits: log-sum-exp, scale * d_losses, and the target counted from the window's first item,
// which wraps when it lies before it. Past the end g must be 0, hence the weight 0.
fn terms_of(query: u32) -> vec3u {
  let own = terms[min(query, params.queries - 1u)];
  return vec3u(own.x, select(0u, own.y, query < params.queries), own.z - params.first);
}

// Gives all lanes the terms of GROUP rows from `base` on, which are in lanes 0 .. GROUP - 1 of `own`.
fn share(of_rows: ptr<function, array<vec3u, PLACES>>, base: u32, own: vec3u) {
  (*of_rows)[base + 0u] = subgroupBroadcast(own, 0u); // each lane
}

// The terms of the tile's queries from `query` on.
fn share_terms(query: u32, lane: u32, of_rows: ptr<function, array<vec3u, PLACES>>) {
  share(of_rows, 0u, terms_of(query + lane));
  if (ROWS > GROUP) { share(of_rows, GROUP, terms_of(query + GROUP + lane)); }
  if (ROWS > 2u * GROUP) {
    share(of_rows, 2u * GROUP, terms_of(query + 2u * GROUP + lane));
    share(of_rows, 3u * GROUP, terms_of(query + 3u * GROUP + lane));
  }
  if (ROWS > 4u * GROUP) {
    share(of_rows, 4u * GROUP, terms_of(query + 4u * GROUP + lane));
    share(of_rows, 5u * GROUP, terms_of(query + 5u * GROUP + lane));
    share(of_rows, 6u * GROUP, terms_of(query + 6u * GROUP + lane));
    share(of_rows, 7u * GROUP, terms_of(query + 7u * GROUP + lane));
  }
}

// Elements of an item, or with `queries` of a query.
fn load_other(queries: bool, at: u32, k: u32) -> vec4f {
  if (queries) { return load_row(at, k); }
  return load_column(at, k);
}

// ROWS rows of g (of its transpose: `queries`) from row `base` of the tile on, times `present` items (queries) from
// `other` on: (*sums)[i] are this lane's four elements of row base + i of the result, from `k` of the width on. g is 0
// for those that a group of four lacks.
fn multiply(queries: bool, base: u32, other: u32, present: u32, k: u32, lane: u32,
            sums: ptr<function, array<vec4f, PLACES>>) {
  var s = array<vec4f, ROWS>();
  let pitch = select(LANES, ROWS / 4u, queries);
  let own = select(0u, TRANSPOSED, queries) + (base + lane % GROUP) * pitch;
  let at = min(k, params.width - 4u);
  for (var n = 0u; n < (present + 3u) / 4u; n++) {
    let one = other + 4u * n;
    let b = mat4x4f(load_other(queries, one, at), load_other(queries, one + 1u, at),
                    load_other(queries, one + 2u, at), load_other(queries, one + 3u, at));
    add_rows(&s, 0u, g_tile[own + n], b);
    if (ROWS > GROUP) { add_rows(&s, GROUP, g_tile[own + GROUP * pitch + n], b); }
    if (ROWS > 2u * GROUP) {
      add_rows(&s, 2u * GROUP, g_tile[own + 2u * GROUP * pitch + n], b);
      add_rows(&s, 3u * GROUP, g_tile[own + 3u * GROUP * pitch + n], b);
    }
    if (ROWS > 4u * GROUP) {
      add_rows(&s, 4u * GROUP, g_tile[own + 4u * GROUP * pitch + n], b);
      add_rows(&s, 5u * GROUP, g_tile[own + 5u * GROUP * pitch + n], b);
      add_rows(&s, 6u * GROUP, g_tile[own + 6u * GROUP * pitch + n], b);
      add_rows(&s, 7u * GROUP, g_tile[own + 7u * GROUP * pitch + n], b);
    }
  }
  for (var i = 0u; i < ROWS; i++) { (*sums)[i] = s[i]; }
}

// g of row i of the tile and this lane's four columns from `item` on.
fn gradient_of(x: vec4f, of_row: vec3u, b: vec4f, item: u32) -> vec4f {
  let items = vec4u(item) + vec4u(0u, 1u, 2u, 3u);
  let p = exp(fma(vec4f(params.scale), x, b) - bitcast<f32>(of_row.x));
  let hit = select(vec4f(0.0), vec4f(1.0), items == vec4u(of_row.z));
  return select(vec4f(0.0), bitcast<f32>(of_row.y) * (p - hit), items < vec4u(params.items));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let first_query = select(group.x * ROWS, 0u, ITEMS);
  let end_query = select(min(first_query + ROWS, params.queries), params.queries, ITEMS);
  let start = group.y * params.slab;
  let end = min(start + params.slab, params.items);
  for (var item = start; item < end; item += COLUMNS) {
    let column = item + 4u * lane;
    let items = min(COLUMNS, end - item);
    let b = biases(column);
    var bias_sum = vec4f(0.0);
    for (var query = first_query; query < end_query; query += ROWS) {
      let rows = min(ROWS, end_query - query);
      var of_rows: array<vec3u, PLACES>;
      share_terms(query, lane, &of_rows);
      var sums: array<vec4f, PLACES>;
      dots(query, column, lane, &sums);
      for (var i = 0u; i < rows; i += 4u) {
        var g = mat4x4f(gradient_of(sums[i], of_rows[i], b, column),
                        gradient_of(sums[i + 1u], of_rows[i + 1u], b, column),
                        gradient_of(sums[i + 2u], of_rows[i + 2u], b, column),
                        gradient_of(sums[i + 3u], of_rows[i + 3u], b, column));
        for (var j = 0u; j < 4u; j++) { g_tile[(i + j) * LANES + lane] = g[j]; }
        if (ITEMS) {
          g = transpose(g);
          for (var j = 0u; j < 4u; j++) { g_tile[TRANSPOSED + (4u * lane + j) * (ROWS / 4u) + i / 4u] = g[j]; }
          let one = vec4f(1.0);
          bias_sum += vec4f(dot(g[0], one), dot(g[1], one), dot(g[2], one), dot(g[3], one));
        }
      }
      workgroupBarrier();
      let add = with_option(ACCUMULATE) || item > start;
      let add_item = with_option(ACCUMULATE_ITEMS) || query > 0u;
      for (var chunk = 0u; chunk < params.width; chunk += COLUMNS) {
        let k = chunk + 4u * lane;
        multiply(false, 0u, item, items, k, lane, &sums);
        let count = select(0u, rows, k < params.width);
        for (var i = 0u; i < count; i++) {
          let place = ((group.y * params.queries + query + i) * params.width + k) >> 2u;
          out[place] = select(vec4f(0.0), out[place], add) + sums[i];
        }
        if (ITEMS) {
          for (var base = 0u; base < items; base += ROWS) {
            multiply(true, base, query, rows, k, lane, &sums);
            let count = select(0u, min(ROWS, items - base), k < params.width);
            for (var i = 0u; i < count; i++) {
              let place = ((item + base + i) * params.width + k) >> 2u;
              d_items[place] = select(vec4f(0.0), d_items[place], add_item) + sums[i];
            }
          }
        }
      }
      // The next tile's g waits until all have read this one's.
      workgroupBarrier();
    }
    if (ITEMS && with_option(BIAS_GRADIENT)) {
      for (var j = 0u; j < 4u; j++) {
        if (column + j < end) {
          let sum = bias_sum[j] / params.scale;
          d_bias[column + j] = select(0.0, d_bias[column + j], with_option(ACCUMULATE_ITEMS)) + sum;
        }
      }
    }
  }
}
