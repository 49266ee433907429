// item_set_list: merges a chunk of the item set into every query's list of the k best items, from the best candidate of
// each of its groups (item_set_walk_best.wgsl).
//   list[q] = the k first of (list[q] and the chunk's candidates) by (score descending, id ascending)
// No candidates are the items that the query has seen, that `allowed` does not name, or whose score is not finite. Lists
// hold scores as u32 keys in the same order; empty places hold key 0 and id 2^32 - 1. With `last` the keys become scores
// again, minus infinity in empty places.
// Shapes: h [queries, width]; items (`weights`) [items, width], f32 or, in a variant, as kernels/weights/f16.wgsl says,
// the chunk from item `first` on; bias [I]; allowed u32 [ceil(I / 32)]; seen_offsets u32 [queries + 1] and seen_ids u32;
// best u32 [3, queries, groups] of (key, id, next key), made with the same `tiles` and `columns`, 4 tiles <= 64; lists u32: keys
// [queries, k] from its start on, ids [queries, k] from place `ids` on; k <= 1024.
// Who calls it: topItems in ops/item-set-top.ts, chunk after chunk in the order of the items.
// Why it is exact. The best of a group stands before all others of its group. So does every item that it is not listed
// for: once the bests of all groups are merged with the list, an item whose group's best is not among the k first has k
// others before it. What remains to be seen are the groups of the listed bests, and only those whose next key is not below
// the list's last; their scores are made again, by the same sequence of fused multiply-adds.
// Tiling: a workgroup of 256 lanes a query, in three stages.
//   1. A group whose best the query has seen gets another: the best of those it has not.
//   2. The bests that stand before the list's last entry survive into workgroup memory, are sorted, and merge with the
//      list by binary search. After the first few hundred almost none do: the lanes look at more and more at once, and
//      again at fewer when too many survive.
//   3. The members of the groups that got into the list, and may have a second one there, go the same way.
// Survivors arrive in any order; sorting by (key, id), of which no two are equal, settles it.
requires immediate_address_space;

// Bits of `options`.
const BIAS = 1u;
const SEEN = 2u;
const ALLOWED = 4u;

struct Params {
  queries: u32, items: u32, width: u32, first: u32, k: u32, groups: u32, tiles: u32, columns: u32, ids: u32, last: u32,
  options: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> allowed: array<u32>;
@group(0) @binding(4) var<storage, read> seen_offsets: array<u32>;
@group(0) @binding(5) var<storage, read> seen_ids: array<u32>;
@group(0) @binding(6) var<storage, read_write> best: array<u32>;
@group(0) @binding(7) var<storage, read_write> lists: array<u32>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<f32>;

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 { return weights[row * width + column]; }
// end weights

const LANES = 256u;
// Survivors that workgroup memory holds.
const SPACE = 512u;
// Survivors that are sorted by counting, at most one a lane.
const FEW = 64u;
// Groups that the lanes look at at once, at most.
const MOST_AT_ONCE = 8192u;
const NOBODY = 0xffffffffu;
// A survivor, or a listed best, is (key, id).
var<workgroup> found: array<vec2u, SPACE>;
var<workgroup> places: array<u32, SPACE>;
var<workgroup> listed: array<vec2u, 1024>;
var<workgroup> counter: atomic<u32>;
var<workgroup> shared_count: u32;

// Whether one of the bits above is set: flags at run time, because compiling a kernel for each combination takes long.
fn with_option(bit: u32) -> bool { return (params.options & bit) != 0u; }

// Bits of a finite score as an unsigned integer in the order of the scores; never 0. -0 counts as 0.
fn order(bits: u32) -> u32 {
  if ((bits << 1u) == 0u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

// Whether a stands before b in a list.
fn before(a: vec2u, b: vec2u) -> bool {
  return a.x > b.x || (a.x == b.x && a.y < b.y);
}

// Item `item` of the chunk as a (key, id); key 0 when its score is not finite.
fn scored(query: u32, item: u32) -> vec2u {
  var score = 0.0;
  for (var k = 0u; k < params.width; k++) {
    score = fma(h[query * params.width + k], weight(item, k, params.width), score);
  }
  if (with_option(BIAS)) { score += bias[params.first + item]; }
  let bits = bitcast<u32>(score);
  let key = select(order(bits), 0u, (bits & 0x7f800000u) == 0x7f800000u);
  return vec2u(key, params.first + item);
}

// Whether the query may be shown item `id`.
fn candidate(query: u32, id: u32) -> bool {
  if (with_option(ALLOWED)) {
    if (((allowed[id / 32u] >> (id % 32u)) & 1u) == 0u) { return false; }
  }
  if (with_option(SEEN)) {
    for (var s = seen_offsets[query]; s < seen_offsets[query + 1u]; s++) {
      if (seen_ids[s] == id) { return false; }
    }
  }
  return true;
}

// The group of an item of the chunk, and the m-th item of the group that `item` belongs to, in the order of the ids.
fn group_of(item: u32) -> u32 {
  let run = item / (params.tiles * params.columns);
  return (run * params.columns + item % params.columns) / 4u;
}
fn member(item: u32, m: u32) -> u32 {
  let start = item - item % (params.tiles * params.columns);
  let column = item % params.columns;
  return start + m / 4u * params.columns + (column & ~3u) + m % 4u;
}

// The best of a group as (key, id), and the next key.
fn best_of(query: u32, group: u32) -> vec2u {
  let at = query * params.groups + group;
  return vec2u(best[at], best[params.queries * params.groups + at]);
}
fn next_of(query: u32, group: u32) -> u32 { return best[(2u * params.queries + query) * params.groups + group]; }
fn set_best(query: u32, group: u32, entry: vec2u, next: u32) {
  let plane = params.queries * params.groups;
  let at = query * params.groups + group;
  best[at] = entry.x;
  best[plane + at] = entry.y;
  best[2u * plane + at] = next;
}

fn list_at(at: u32) -> vec2u { return vec2u(lists[at], lists[params.ids + at]); }
fn set_list(at: u32, entry: vec2u) {
  lists[at] = entry.x;
  lists[params.ids + at] = entry.y;
}

// The counter, the same in every lane; what the lanes wrote before is visible to all after it.
fn count_found(index: u32) -> u32 {
  workgroupBarrier();
  if (index == 0u) { shared_count = atomicLoad(&counter); }
  return workgroupUniformLoad(&shared_count);
}

// Sets the counter to 0, and lets all lanes go on together.
fn reset(index: u32) {
  if (index == 0u) { atomicStore(&counter, 0u); }
  storageBarrier();
  workgroupBarrier();
}

// Sorts the first `count` survivors. Few: one a lane, whose place is the number of those before it. Many: bitonic, padded
// to a power of two with what stands last.
fn sort(index: u32, count: u32) {
  if (count <= FEW) {
    var place = 0u;
    var own = vec2u();
    if (index < count) {
      own = found[index];
      for (var i = 0u; i < count; i++) {
        if (before(found[i], own)) { place++; }
      }
    }
    workgroupBarrier();
    if (index < count) { found[place] = own; }
    workgroupBarrier();
    return;
  }
  var padded = 2u * FEW;
  while (padded < count) { padded *= 2u; }
  for (var i = count + index; i < padded; i += LANES) { found[i] = vec2u(0u, NOBODY); }
  for (var run = 2u; run <= padded; run *= 2u) {
    for (var gap = run / 2u; gap > 0u; gap /= 2u) {
      workgroupBarrier();
      for (var pair = index; pair < padded / 2u; pair += LANES) {
        let i = pair / gap * gap * 2u + pair % gap;
        let a = found[i];
        let b = found[i + gap];
        // Runs alternate in direction, until the last one, which goes down.
        if (before(b, a) == ((i & run) == 0u)) {
          found[i] = b;
          found[i + gap] = a;
        }
      }
    }
  }
  workgroupBarrier();
}

// Number of survivors that stand before an entry of the list.
fn survivors_before(entry: vec2u, count: u32) -> u32 {
  var low = 0u;
  var high = count;
  while (low < high) {
    let middle = (low + high) / 2u;
    if (before(found[middle], entry)) { low = middle + 1u; } else { high = middle; }
  }
  return low;
}

// Number of listed items that stand before a survivor.
fn listed_before(entry: vec2u, base: u32) -> u32 {
  var low = 0u;
  var high = params.k;
  while (low < high) {
    let middle = (low + high) / 2u;
    if (before(list_at(base + middle), entry)) { low = middle + 1u; } else { high = middle; }
  }
  return low;
}

// Sorts the survivors and merges them into the list. The listed items move down, the last ones first, so that none is
// overwritten before it has moved.
fn merge(index: u32, count: u32, base: u32) {
  sort(index, count);
  for (var i = index; i < count; i += LANES) { places[i] = i + listed_before(found[i], base); }
  let chunks = (params.k + LANES - 1u) / LANES;
  for (var chunk = chunks; chunk > 0u; chunk--) {
    let at = (chunk - 1u) * LANES + index;
    var place = NOBODY;
    var entry = vec2u();
    if (at < params.k) {
      entry = list_at(base + at);
      place = at + survivors_before(entry, count);
    }
    storageBarrier();
    if (place < params.k && place != at) { set_list(base + place, entry); }
  }
  storageBarrier();
  for (var i = index; i < count; i += LANES) {
    if (places[i] < params.k) { set_list(base + places[i], found[i]); }
  }
  reset(index);
}

// Stage 1: another best for a group whose best the query has seen.
fn repair(query: u32, best_item: u32, index: u32) {
  for (var m = index; m < 4u * params.tiles; m += LANES) {
    let item = member(best_item, m);
    var entry = vec2u(0u, NOBODY);
    if (item < params.items) {
      let own = scored(query, item);
      if (own.x > 0u && candidate(query, own.y)) { entry = own; }
    }
    listed[m] = entry;
  }
  workgroupBarrier();
  if (index == 0u) {
    var most = vec2u(0u, NOBODY);
    var next = 0u;
    for (var m = 0u; m < 4u * params.tiles; m++) {
      let entry = listed[m];
      next = max(next, min(entry.x, most.x));
      if (before(entry, most)) { most = entry; }
    }
    set_best(query, group_of(best_item), most, next);
  }
  workgroupBarrier();
}

fn leave_out_seen(query: u32, index: u32) {
  let end = seen_offsets[query + 1u];
  for (var s = seen_offsets[query]; s < end; s += LANES) {
    if (s + index < end) {
      let item = seen_ids[s + index] - params.first;
      // An id that stands twice comes twice, and gives the same both times.
      if (item < params.items && best_of(query, group_of(item)).y == params.first + item) {
        found[atomicAdd(&counter, 1u)].x = item;
      }
    }
    let count = count_found(index);
    for (var i = 0u; i < count; i++) { repair(query, found[i].x, index); }
    reset(index);
  }
}

// Stage 2: the bests of all groups.
fn merge_bests(query: u32, base: u32, index: u32) {
  var size = FEW;
  var begin = 0u;
  while (begin < params.groups) {
    let end = min(begin + size, params.groups);
    let bar = list_at(base + params.k - 1u);
    for (var i = begin + index; i < end; i += LANES) {
      let entry = best_of(query, i);
      if (entry.x > 0u && before(entry, bar)) {
        let place = atomicAdd(&counter, 1u);
        if (place < SPACE) { found[place] = entry; }
      }
    }
    let count = count_found(index);
    if (count > SPACE) {
      size = SPACE;
      reset(index);
    } else {
      if (count > 0u) { merge(index, count, base); }
      begin = end;
      size = min(2u * size, MOST_AT_ONCE);
    }
  }
}

// Stage 3: the other members of the groups whose best is listed, where one may be.
fn merge_members(query: u32, base: u32, index: u32) {
  let last = lists[base + params.k - 1u];
  for (var i = index; i < params.k; i += LANES) {
    let entry = list_at(base + i);
    let item = entry.y - params.first;  // wraps past `items` when it lies in an earlier chunk
    if (entry.x > 0u && item < params.items && next_of(query, group_of(item)) >= max(last, 1u)) {
      listed[atomicAdd(&counter, 1u)] = entry;
    }
  }
  let members = 4u * params.tiles;
  let slots = count_found(index) * members;
  reset(index);
  for (var begin = 0u; begin < slots; begin += LANES) {
    let slot = begin + index;
    if (slot < slots) {
      let own = listed[slot / members];
      let item = member(own.y - params.first, slot % members);
      let bar = list_at(base + params.k - 1u);
      // A best that has left the list stands before all of its group, so they are no better.
      if (item < params.items && params.first + item != own.y && !before(bar, own)) {
        let entry = scored(query, item);
        if (entry.x > 0u && before(entry, bar) && candidate(query, entry.y)) { found[atomicAdd(&counter, 1u)] = entry; }
      }
    }
    let count = count_found(index);
    // They wait until the next ones might not find space.
    if (count > SPACE - LANES || (count > 0u && begin + LANES >= slots)) { merge(index, count, base); }
  }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let query = wid.y * grid.x + wid.x;
  if (query >= params.queries) { return; }
  let base = query * params.k;
  if (params.first == 0u) {
    for (var i = index; i < params.k; i += LANES) { set_list(base + i, vec2u(0u, NOBODY)); }
  }
  reset(index);
  if (with_option(SEEN)) { leave_out_seen(query, index); }
  merge_bests(query, base, index);
  merge_members(query, base, index);
  if (params.last == 1u) {
    for (var i = index; i < params.k; i += LANES) {
      let key = lists[base + i];
      var bits = select(~key, key & 0x7fffffffu, (key >> 31u) == 1u);
      if (key == 0u) { bits = 0xff800000u; }
      lists[base + i] = bits;
    }
  }
}
