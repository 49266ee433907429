// item_set_rows_best: item_set_walk_best.wgsl for software adapters: the best candidate of every group of items for every
// query; the scores are never written.
//   score(q, i) = h[q] . items[i] + bias[i]
//   best[q, group] = (key, id, next): the group's highest score, the lower id of equal ones, and the next highest
//   score, which may be equal; (0, 2^32 - 1, 0) without candidates
// Candidates are the items that `allowed` names and whose score is finite (the others are counted). A key is a score as an
// unsigned integer in the order of the scores, never 0. A group are the columns that one lane meets: the 4 x `tiles` items
//   (block * tiles + t) * COLUMNS + 4 lane + j,  t < tiles, j < 4, of group = block * LANES + lane.
// Shapes: h [queries, width]; items (`weights`) [items, width], f32 or, in a variant, as kernels/weights/f16.wgsl says,
// the window from item `first` on (a multiple of 4); width a multiple of 4; bias [I]; allowed u32 [ceil(I / 32)], bit
// i % 32 of word i / 32 for item i; best u32 [3, queries, groups]; not_finite u32 [queries], zero before the first
// window.
// Who calls it: topItems in ops/item-set-top.ts; item_set_list.wgsl makes the lists.
// Tiling: a workgroup is one subgroup of LANES lanes. It takes ROWS queries and a slab of items, which it walks in tiles
// of COLUMNS; a lane makes ROWS x 4 dot products of a tile, from elements that one lane loads and all receive by broadcast
// (as in product_rows.wgsl, which says why; what these kernels share is told in docs/kernels/item-set.md). Variants have
// fewer rows, for few queries.
// A block of `tiles` tiles is the work of a workgroup.
requires immediate_address_space;
enable subgroups;

// Bits of `options`.
const BIAS = 1u;
const ALLOWED = 4u;

struct Params { queries: u32, items: u32, width: u32, first: u32, tiles: u32, groups: u32, options: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> allowed: array<u32>;
@group(0) @binding(4) var<storage, read_write> best: array<u32>;
@group(0) @binding(5) var<storage, read_write> not_finite: array<atomic<u32>>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<vec4f>;

// Elements [row, column .. column + 3] of a matrix with rows of `width` elements; all are multiples of 4 but row.
fn weight4(row: u32, column: u32, width: u32) -> vec4f { return weights[(row * width + column) >> 2u]; }
// end weights

const NOBODY = 0xffffffffu;
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

// Whether one of the bits above is set: flags at run time, because compiling a kernel for each combination takes long.
fn with_option(bit: u32) -> bool { return (params.options & bit) != 0u; }

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

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let query = group.x * ROWS;
  let present = min(ROWS, params.queries - query);
  // (key, id, next key, scores that are not finite) of every row.
  var most: array<vec4u, PLACES>;
  for (var i = 0u; i < present; i++) { most[i] = vec4u(0u, NOBODY, 0u, 0u); }
  let start = group.y * params.tiles * COLUMNS;
  let end = min(start + params.tiles * COLUMNS, params.items);
  for (var item = start; item < end; item += COLUMNS) {
    var sums: array<vec4f, PLACES>;
    dots(query, item + 4u * lane, lane, &sums);
    let columns = vec4u(item + 4u * lane) + vec4u(0u, 1u, 2u, 3u);
    let valid = columns < vec4u(params.items);
    let b = biases(columns.x);
    var shown = valid;
    if (with_option(ALLOWED)) {
      let at = params.first + min(columns.x, params.items - 1u);
      shown &= (vec4u(allowed[at / 32u] >> (at % 32u)) & vec4u(1u, 2u, 4u, 8u)) != vec4u(0u);
    }
    for (var i = 0u; i < present; i++) {
      var scores = sums[i];
      if (with_option(BIAS)) { scores += b; }
      let bits = bitcast<vec4u>(scores);
      let endless = (bits & vec4u(0x7f800000u)) == vec4u(0x7f800000u);
      let counted = vec4u(valid & endless);
      let keys = select(vec4u(0u), order(bits), shown & !endless);
      let low = vec2u(min(keys.x, keys.y), min(keys.z, keys.w));
      let high = vec2u(max(keys.x, keys.y), max(keys.z, keys.w));
      let key = max(high.x, high.y);
      // The second of four: the lower of the two winners, or who lost against the other.
      let second = max(min(high.x, high.y), max(low.x, low.y));
      // The first of equal ones has the lower id; so has what was kept before.
      let j = select(select(select(3u, 2u, keys.z == key), 1u, keys.y == key), 0u, keys.x == key);
      let kept = most[i];
      let first = select(kept.xy, vec2u(key, params.first + columns.x + j), key > kept.x);
      let next = max(max(kept.z, second), min(kept.x, key));
      most[i] = vec4u(first, next, kept.w + counted.x + counted.y + counted.z + counted.w);
    }
  }
  for (var i = 0u; i < present; i++) {
    let at = (query + i) * params.groups + group.y * LANES + lane;
    let plane = params.queries * params.groups;
    best[at] = most[i].x;
    best[plane + at] = most[i].y;
    best[2u * plane + at] = most[i].z;
    if (most[i].w > 0u) { atomicAdd(&not_finite[query + i], most[i].w); }
  }
}
