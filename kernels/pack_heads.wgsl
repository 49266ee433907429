// pack_heads: query, key and value heads side by side as f16, for attention on tensor cores; rotary embedding on the way.
//   packed[t] = f16(factor R_t q) | f16(R_t k) | f16(v)          factor = scale log2(e)
// R_t turns the first R = 2 pairs elements of a head as rope.wgsl does, by angles[t]; pairs is 0 where nothing turns.
// Shapes: q [T, H h], k and v [T, G h], each with a first element and a stride of its own; angles [T, R/2, 2] from
// rope_angles.wgsl; packed u32 [T, (H + 2G) h / 2], two f16 to a word, the first in the lower half. h is even. T = rows,
// H = heads, G = groups, h = head_size.
// Who calls it: ops/pack-heads.ts, for attention_matrix_*.wgsl, whose workgroups then copy rows as they are, once for each
// block of queries or keys that reads them.
// Tiling: a lane owns one word of a head in one row, reads its two angles once and goes through the heads: neighbouring lanes
// read and write neighbouring elements.
requires immediate_address_space;

override INTERLEAVED: bool = false;

struct Params {
  rows: u32, heads: u32, groups: u32, head_size: u32, pairs: u32,
  q_offset: u32, q_stride: u32, k_offset: u32, k_stride: u32, v_offset: u32, v_stride: u32, factor: f32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> angles: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> packed: array<u32>;

// How element d of a head turns: x cos + partner sin, the partner `distance` elements on.
struct Turn { cosine: f32, sine: f32, distance: i32 }

fn turn_of(row: u32, d: u32) -> Turn {
  if (d >= 2u * params.pairs) { return Turn(1.0, 0.0, 0); }
  let pair = select(d % params.pairs, d / 2u, INTERLEAVED);
  let first = select(d < params.pairs, d % 2u == 0u, INTERLEAVED);
  let distance = i32(select(params.pairs, 1u, INTERLEAVED));
  let angle = angles[row * params.pairs + pair];
  return Turn(angle.x, select(angle.y, -angle.y, first), select(-distance, distance, first));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let index = (group.y * grid.x + group.x) * 64u + lane;
  let words = params.head_size / 2u;
  let row = index / words;
  if (row >= params.rows) { return; }
  let word = index % words;
  let low = turn_of(row, 2u * word);
  let high = turn_of(row, 2u * word + 1u);
  var to = row * (params.heads + 2u * params.groups) * words + word;
  var source = params.q_offset + row * params.q_stride + 2u * word;
  for (var head = 0u; head < params.heads; head++) {
    let a = q[source] * low.cosine + q[u32(i32(source) + low.distance)] * low.sine;
    let b = q[source + 1u] * high.cosine + q[u32(i32(source + 1u) + high.distance)] * high.sine;
    packed[to] = pack2x16float(vec2f(a, b) * params.factor);
    source += params.head_size;
    to += words;
  }
  source = params.k_offset + row * params.k_stride + 2u * word;
  for (var head = 0u; head < params.groups; head++) {
    let a = k[source] * low.cosine + k[u32(i32(source) + low.distance)] * low.sine;
    let b = k[source + 1u] * high.cosine + k[u32(i32(source + 1u) + high.distance)] * high.sine;
    packed[to] = pack2x16float(vec2f(a, b));
    source += params.head_size;
    to += words;
  }
  source = params.v_offset + row * params.v_stride + 2u * word;
  for (var head = 0u; head < params.groups; head++) {
    packed[to] = pack2x16float(vec2f(v[source], v[source + 1u]));
    source += params.head_size;
    to += words;
  }
}
