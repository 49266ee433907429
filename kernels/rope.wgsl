// rope: rotary position embedding, in place. For pair i of R/2 (R = rotary_dim) of every head of row t,
//   (a, b) <- (a cos - b sin, a sin + b cos)   of angles[t, i];  the other way round when INVERSE.
// The pair is (i, i + R/2) of the head's elements, or (2i, 2i + 1) when INTERLEAVED; elements from R on stay.
// Shapes: x [T, stride], of which `heads` heads of `head_size` start at element `offset` of each row; angles [T, R/2, 2] from
// rope_angles.wgsl. T = rows, pairs = R/2.
// Who calls it: ops/rope.ts, rope (its gradient is the inverse rotation), for shapes that are not groups of four
// (rope_grouped.wgsl). For tensor cores pack_heads.wgsl rotates, and pack_rows.wgsl back.
// Tiling: a lane owns one pair of one row, reads its angle once and rotates that pair in every head.
requires immediate_address_space;

override INTERLEAVED: bool = false;
override INVERSE: bool = false;

struct Params { rows: u32, pairs: u32, heads: u32, head_size: u32, stride: u32, offset: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> angles: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let index = (group.y * grid.x + group.x) * 64u + lane;
  let row = index / params.pairs;
  let pair = index % params.pairs;
  if (row >= params.rows) { return; }
  let cosine = angles[index].x;
  let sine = select(angles[index].y, -angles[index].y, INVERSE);

  var first = row * params.stride + params.offset + select(pair, 2u * pair, INTERLEAVED);
  let second = select(params.pairs, 1u, INTERLEAVED);
  for (var head = 0u; head < params.heads; head++) {
    let a = x[first];
    let b = x[first + second];
    x[first] = a * cosine - b * sine;
    x[first + second] = a * sine + b * cosine;
    first += params.head_size;
  }
}
