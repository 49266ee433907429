// item_set_top: merges a panel of scores into every query's running list of the k best items.
//   score(q, i) = scores[q, i] + bias[i]
//   list[q] = the k first of (list[q] and the panel's candidates) by (score descending, id ascending)
// No candidates are the items that the query has seen, that `allowed` does not name, or whose score is not finite (those
// are counted). The list holds scores as u32 keys in the same order; empty places hold key 0 and id 2^32 - 1. With `last`
// the keys become scores again, minus infinity in empty places.
// Shapes: scores [queries, pitch], dot products with `items` items from item `first` on; bias [I]; allowed u32
// [ceil(I / 32)], bit i % 32 of word i / 32 for item i; seen_offsets u32 [queries + 1] and seen_ids u32; list_keys and
// list_ids u32 [queries, k], k <= 1024; not_finite u32 [queries].
// Who calls it: topItems in ops/item-set-top.ts, panel after panel in the order of the items.
// Tiling: a workgroup a query. The panel passes in blocks of up to 1024 items: candidates above the list's last key
// survive into workgroup memory, are sorted there, and the two sorted lists merge by binary search. After the first
// blocks few survive (about k / n of block n): those are sorted with one barrier, and only they are looked up in what the
// query has seen. Blocks start small for the same reason. Ids grow from block to block, so an equal key never displaces a
// listed one. Survivors arrive in any order; sorting settles it.
requires immediate_address_space;

override BIAS: bool = false;
override SEEN: bool = false;
override ALLOWED: bool = false;

struct Params { queries: u32, items: u32, pitch: u32, k: u32, first: u32, last: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> scores: array<f32>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read> allowed: array<u32>;
@group(0) @binding(3) var<storage, read> seen_offsets: array<u32>;
@group(0) @binding(4) var<storage, read> seen_ids: array<u32>;
@group(0) @binding(5) var<storage, read_write> list_keys: array<u32>;
@group(0) @binding(6) var<storage, read_write> list_ids: array<u32>;
@group(0) @binding(7) var<storage, read_write> not_finite: array<u32>;

const LANES = 64u;
const BLOCK = 1024u;
const NOBODY = 0xffffffffu;
var<workgroup> found_keys: array<u32, 1024>;
var<workgroup> found_ids: array<u32, 1024>;
var<workgroup> found_places: array<u32, 1024>;
var<workgroup> found: atomic<u32>;
var<workgroup> found_count: u32;
var<workgroup> odd: atomic<u32>;

// Bits of a finite score as an unsigned integer in the order of the scores; never 0. -0 counts as 0.
fn order(bits: u32) -> u32 {
  if ((bits << 1u) == 0u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

// Whether the query may be shown item `id`.
fn candidate(query: u32, id: u32) -> bool {
  if (ALLOWED) {
    if (((allowed[id / 32u] >> (id % 32u)) & 1u) == 0u) { return false; }
  }
  if (SEEN) {
    for (var s = seen_offsets[query]; s < seen_offsets[query + 1u]; s++) {
      if (seen_ids[s] == id) { return false; }
    }
  }
  return true;
}

// Whether (a, a_id) stands before (b, b_id).
fn before(a: u32, a_id: u32, b: u32, b_id: u32) -> bool {
  return a > b || (a == b && a_id < b_id);
}

// Sorts the first `count` survivors, at most one a lane: a survivor's place is the number of those before it.
fn sort_few(index: u32, count: u32) {
  var place = 0u;
  var key = 0u;
  var id = NOBODY;
  if (index < count) {
    key = found_keys[index];
    id = found_ids[index];
    for (var i = 0u; i < count; i++) {
      if (before(found_keys[i], found_ids[i], key, id)) { place++; }
    }
  }
  workgroupBarrier();
  if (index < count) {
    found_keys[place] = key;
    found_ids[place] = id;
  }
  workgroupBarrier();
}

// Sorts the first `count` survivors, any number: bitonic, padded to a power of two with what stands last.
fn sort_many(index: u32, count: u32) {
  var padded = 1u;
  while (padded < count) { padded *= 2u; }
  for (var i = count + index; i < padded; i += LANES) {
    found_keys[i] = 0u;
    found_ids[i] = NOBODY;
  }
  for (var run = 2u; run <= padded; run *= 2u) {
    for (var gap = run / 2u; gap > 0u; gap /= 2u) {
      workgroupBarrier();
      for (var pair = index; pair < padded / 2u; pair += LANES) {
        let i = pair / gap * gap * 2u + pair % gap;
        let j = i + gap;
        let key_i = found_keys[i];
        let key_j = found_keys[j];
        let id_i = found_ids[i];
        let id_j = found_ids[j];
        // Runs alternate in direction, until the last one, which goes down in key.
        let wanted = (i & run) == 0u;
        if (before(key_j, id_j, key_i, id_i) == wanted) {
          found_keys[i] = key_j;
          found_keys[j] = key_i;
          found_ids[i] = id_j;
          found_ids[j] = id_i;
        }
      }
    }
  }
  workgroupBarrier();
}

// Number of survivors with a key above `key`.
fn survivors_above(key: u32, count: u32) -> u32 {
  var low = 0u;
  var high = count;
  while (low < high) {
    let middle = (low + high) / 2u;
    if (found_keys[middle] > key) { low = middle + 1u; } else { high = middle; }
  }
  return low;
}

// Number of listed items with a key of at least `key`.
fn listed_from(key: u32, base: u32) -> u32 {
  var low = 0u;
  var high = params.k;
  while (low < high) {
    let middle = (low + high) / 2u;
    if (list_keys[base + middle] >= key) { low = middle + 1u; } else { high = middle; }
  }
  return low;
}

// Merges the sorted survivors into the list. The listed items move down, the last ones first, so that none is
// overwritten before it has moved.
fn merge(index: u32, count: u32, base: u32) {
  for (var i = index; i < count; i += LANES) { found_places[i] = i + listed_from(found_keys[i], base); }
  let chunks = (params.k + LANES - 1u) / LANES;
  for (var chunk = chunks; chunk > 0u; chunk--) {
    let at = (chunk - 1u) * LANES + index;
    var place = NOBODY;
    var key = 0u;
    var id = 0u;
    if (at < params.k) {
      key = list_keys[base + at];
      id = list_ids[base + at];
      place = at + survivors_above(key, count);
    }
    storageBarrier();
    if (place < params.k && place != at) {
      list_keys[base + place] = key;
      list_ids[base + place] = id;
    }
  }
  storageBarrier();
  for (var i = index; i < count; i += LANES) {
    if (found_places[i] < params.k) {
      list_keys[base + found_places[i]] = found_keys[i];
      list_ids[base + found_places[i]] = found_ids[i];
    }
  }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let query = wid.y * grid.x + wid.x;
  if (query >= params.queries) { return; }
  let base = query * params.k;
  if (params.first == 0u) {
    for (var i = index; i < params.k; i += LANES) {
      list_keys[base + i] = 0u;
      list_ids[base + i] = NOBODY;
    }
  }
  if (index == 0u) {
    atomicStore(&found, 0u);
    atomicStore(&odd, 0u);
  }
  storageBarrier();
  workgroupBarrier();
  var begin = 0u;
  while (begin < params.items) {
    let size = min(min(BLOCK, max(LANES, params.first + begin)), params.items - begin);
    let bar = list_keys[base + params.k - 1u];
    for (var i = index; i < size; i += LANES) {
      let id = params.first + begin + i;
      var score = scores[query * params.pitch + begin + i];
      if (BIAS) { score += bias[id]; }
      let bits = bitcast<u32>(score);
      if ((bits & 0x7f800000u) == 0x7f800000u) {
        atomicAdd(&odd, 1u);
      } else if (order(bits) > bar && candidate(query, id)) {
        let place = atomicAdd(&found, 1u);
        found_keys[place] = order(bits);
        found_ids[place] = id;
      }
    }
    workgroupBarrier();
    if (index == 0u) {
      found_count = atomicLoad(&found);
      atomicStore(&found, 0u);
    }
    let count = workgroupUniformLoad(&found_count);
    if (count > 0u) {
      if (count <= LANES) { sort_few(index, count); } else { sort_many(index, count); }
      merge(index, count, base);
      storageBarrier();
      workgroupBarrier();
    }
    begin += size;
  }
  if (index == 0u) {
    not_finite[query] = select(0u, not_finite[query], params.first > 0u) + atomicLoad(&odd);
  }
  if (params.last == 1u) {
    for (var i = index; i < params.k; i += LANES) {
      let key = list_keys[base + i];
      var bits = select(~key, key & 0x7fffffffu, (key >> 31u) == 1u);
      if (key == 0u) { bits = 0xff800000u; }
      list_keys[base + i] = bits;
    }
  }
}
