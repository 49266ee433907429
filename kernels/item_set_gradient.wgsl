// item_set_gradient: the gradient of the cross-entropies, the scores made again tile by tile and never written.
//   logit(q, i) = scale * h[q] . items[i] + bias[i]
//   g(q, i) = scale * d_losses[q] * (exp(logit(q, i) - lse[q]) - [i = targets[q]])
//   ITEMS false:  out[slab, q, :] (+)= sum_i g(q, i) items[i, :]         over a slab of items
//   ITEMS true:   out[slab, i, :] (+)= sum_q g(q, i) h[q, :]             over a slab of queries
//                 d_bias[slab, i] (+)= sum_q g(q, i) / scale             with BIAS_GRADIENT
// Shapes: h [queries, width]; items (`weights`) [items, width], f32 or, in a variant, as kernels/weights/f16.wgsl says,
// the window from item `first` on; bias [I]; targets u32, lse, d_losses [queries]. `out` [slabs, rows, width] and d_bias
// [slabs, rows], rows being the queries or the items of the window; both begin with this window's first slab. A slab has
// `slab` columns, a multiple of COLUMNS. With ACCUMULATE the sums are added to what is there.
// Who calls it: crossEntropyGradient in ops/item-set-gradient.ts, which adds the slabs up (product_sum.wgsl).
// Tiling: a workgroup owns ROWS rows (queries, or items with ITEMS) and walks the columns of its slab (the other side) in
// tiles of COLUMNS. Dot products of a tile are made as in item_set_walk_lse.wgsl, 4 x 4 a lane; the lanes turn them into
// g, put g into workgroup memory, and multiply it with the tile's columns, COLUMNS elements of the width at a time. The
// result is added to `out`: width may be 4096, too much for registers. A lane always meets its own elements of `out`
// again, so they need no barrier. Each workgroup owns its rows of its slab: no atomics, every sum in a fixed order.
// Variants: 8 x 128 for few queries, 128 x 8 for the items' gradient of few queries.
requires immediate_address_space;

override ITEMS: bool = false;

// Bits of `options`.
const BIAS = 1u;
const BIAS_GRADIENT = 2u;
const ACCUMULATE = 4u;

struct Params { queries: u32, items: u32, width: u32, first: u32, slab: u32, options: u32, scale: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
@group(0) @binding(5) var<storage, read> d_losses: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read_write> d_bias: array<f32>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<f32>;

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 { return weights[row * width + column]; }
// end weights

const ROWS = 32u;
const COLUMNS = 64u;
const DEPTH = 16u;
// Columns of a tile that meet g at a time.
const STEPS = min(DEPTH, COLUMNS);
const LANES_X = COLUMNS / 4u;
const LANES_Y = ROWS / 4u;
const LANES = LANES_X * LANES_Y;
// Each k takes one place more than it has: see product.wgsl. The three arrays together stay below 16 KiB.
const A_PITCH = LANES_Y + 1u;
const B_PITCH = LANES_X + 1u;
var<workgroup> a_tile: array<vec4f, DEPTH * A_PITCH>;
var<workgroup> b_tile: array<vec4f, DEPTH * B_PITCH>;
var<workgroup> g_tile: array<vec4f, COLUMNS * A_PITCH>;

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

fn load_row(row: u32, k: u32) -> f32 {
  if (ITEMS) { return load_item(row, k); }
  return load_h(row, k);
}

fn load_column(column: u32, k: u32) -> f32 {
  if (ITEMS) { return load_h(column, k); }
  return load_item(column, k);
}

// Dot products of the rows from `row` on with the columns from `column` on: result[i][j] is that of row 4 lane.y + i and
// column 4 lane.x + j, the sum over k in order from 0. All lanes come here, and have finished reading when one returns.
fn dots(row: u32, column: u32, lane: vec2u, index: u32) -> array<vec4f, 4> {
  var sums = array<vec4f, 4>();
  for (var depth = 0u; depth < params.width; depth += DEPTH) {
    for (var v = index; v < 4u * ROWS; v += LANES) {
      let k = depth + v % DEPTH;
      let r = row + 4u * (v / DEPTH);
      a_tile[v % DEPTH * A_PITCH + v / DEPTH] =
        vec4f(load_row(r, k), load_row(r + 1u, k), load_row(r + 2u, k), load_row(r + 3u, k));
    }
    for (var v = index; v < 4u * COLUMNS; v += LANES) {
      let k = depth + v % DEPTH;
      let c = column + 4u * (v / DEPTH);
      b_tile[v % DEPTH * B_PITCH + v / DEPTH] =
        vec4f(load_column(c, k), load_column(c + 1u, k), load_column(c + 2u, k), load_column(c + 3u, k));
    }
    workgroupBarrier();
    // Four steps at a time, which compilers unroll; all sixteen take a software adapter three times as long to compile.
    let stop = min(depth + DEPTH, params.width);
    for (var k = depth; k < stop; k += 4u) {
      for (var n = k - depth; n < k - depth + 4u; n++) {
        let x = a_tile[n * A_PITCH + lane.y];
        let w = b_tile[n * B_PITCH + lane.x];
        for (var i = 0u; i < 4u; i++) { sums[i] = fma(vec4f(x[i]), w, sums[i]); }
      }
    }
    workgroupBarrier();
  }
  return sums;
}

// What the logits of four queries and of four items need, from `query` and from `item` on; clamped past the end.
struct Terms { lse: vec4f, weights: vec4f, targets: vec4u, biases: vec4f }

fn terms(query: u32, item: u32) -> Terms {
  var result = Terms();
  for (var n = 0u; n < 4u; n++) {
    let q = min(query + n, params.queries - 1u);
    result.lse[n] = lse[q];
    result.weights[n] = params.scale * d_losses[q];
    result.targets[n] = targets[q];
    if (with_option(BIAS)) { result.biases[n] = bias[params.first + min(item + n, params.items - 1u)]; }
  }
  return result;
}

@compute @workgroup_size(LANES_X, LANES_Y)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let rows = select(params.queries, params.items, ITEMS);
  let columns = select(params.items, params.queries, ITEMS);
  let first_row = group.x * ROWS;
  let row = first_row + 4u * lane.y;
  let start = group.y * params.slab;
  let end = min(start + params.slab, columns);
  var bias_sum = 0.0;
  for (var column = start; column < end; column += COLUMNS) {
    let x = dots(first_row, column, lane.xy, index);
    let query = select(row, column + 4u * lane.x, ITEMS);
    let item = select(column + 4u * lane.x, row, ITEMS);
    let own = terms(query, item);
    for (var j = 0u; j < 4u; j++) {
      var g = vec4f();
      for (var i = 0u; i < 4u; i++) {
        let q = select(i, j, ITEMS);
        let n = select(j, i, ITEMS);
        let p = exp(fma(params.scale, x[i][j], own.biases[n]) - own.lse[q]);
        let hit = select(0.0, 1.0, own.targets[q] == params.first + item + n);
        let exists = query + q < params.queries && item + n < params.items;
        g[i] = select(0.0, own.weights[q] * (p - hit), exists);
      }
      g_tile[(4u * lane.x + j) * A_PITCH + lane.y] = g;
    }
    // The barrier before the first product below makes g_tile visible; those of `dots` keep the next tile from
    // overwriting it too early.
    let present = min(COLUMNS, end - column);
    let add = with_option(ACCUMULATE) || column > start;
    for (var chunk = 0u; chunk < params.width; chunk += COLUMNS) {
      // The value must be written out: without it the sums of the last turn were still there (lavapipe).
      var sums = array<vec4f, 4>();
      for (var depth = 0u; depth < present; depth += STEPS) {
        for (var v = index; v < STEPS * LANES_X; v += LANES) {
          let c = column + depth + v / LANES_X;
          let k = chunk + 4u * (v % LANES_X);
          b_tile[v / LANES_X * B_PITCH + v % LANES_X] =
            vec4f(load_column(c, k), load_column(c, k + 1u), load_column(c, k + 2u), load_column(c, k + 3u));
        }
        workgroupBarrier();
        let stop = min(depth + STEPS, present);
        for (var c = depth; c < stop; c += 4u) {
          for (var n = c; n < c + 4u; n++) {
            let g = g_tile[n * A_PITCH + lane.y];
            let w = b_tile[(n - depth) * B_PITCH + lane.x];
            for (var i = 0u; i < 4u; i++) { sums[i] = fma(vec4f(g[i]), w, sums[i]); }
          }
        }
        workgroupBarrier();
      }
      // A loop that no compiler unrolls over a copy of the sums: see product.wgsl.
      var values: array<f32, 33>;
      for (var i = 0u; i < 4u; i++) {
        for (var j = 0u; j < 4u; j++) { values[4u * i + j] = sums[i][j]; }
      }
      let count = 4u * min(4u, rows - min(row, rows));
      for (var i = 0u; i < count; i++) {
        let k = chunk + 4u * lane.x + (i & 3u);
        if (k < params.width) {
          let at = (group.y * rows + row + (i >> 2u)) * params.width + k;
          out[at] = select(0.0, out[at], add) + values[i];
        }
      }
    }
    if (with_option(BIAS_GRADIENT) && index < ROWS) {
      for (var c = 0u; c < present; c++) { bias_sum += g_tile[c * A_PITCH + index / 4u][index % 4u]; }
    }
  }
  if (with_option(BIAS_GRADIENT) && index < ROWS && first_row + index < rows) {
    let at = group.y * rows + first_row + index;
    d_bias[at] = select(0.0, d_bias[at], with_option(ACCUMULATE)) + bias_sum / params.scale;
  }
}
