// rope_grouped: rope.wgsl, four elements at a time; same formula.
//   (a, b) <- (a cos - b sin, a sin + b cos)   of angles[t, i];  the other way round when INVERSE.
// Shapes: as rope.wgsl; head_size, stride and offset are counted in groups of four elements, and the pairs of a head come in
// groups of four, or of two when INTERLEAVED.
// Who calls it: ops/rope.ts, rope, for every published backbone; rope.wgsl takes the other shapes.
// Tiling: a lane owns two groups of one row (four pairs; two when INTERLEAVED, in one group), reads their angles once and
// rotates them in every head. On software adapters, where a load counts, not a byte, that halves the time.
requires immediate_address_space;

override INTERLEAVED: bool = false;
override INVERSE: bool = false;

struct Params { rows: u32, pairs: u32, heads: u32, head_size: u32, stride: u32, offset: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> angles: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let index = (group.y * grid.x + group.x) * 64u + lane;
  let groups = params.pairs / select(4u, 2u, INTERLEAVED);
  let row = index / groups;
  if (row >= params.rows) { return; }
  let own = index % groups;
  let sign = select(1.0, -1.0, INVERSE);
  var at = row * params.stride + params.offset + own;
  if (INTERLEAVED) {
    // (cos, sin) of two pairs.
    let turn = angles[index];
    for (var head = 0u; head < params.heads; head++) {
      let value = x[at];
      x[at] = value * turn.xxzz + value.yxwz * (sign * turn.yyww) * vec4f(-1.0, 1.0, -1.0, 1.0);
      at += params.head_size;
    }
    return;
  }
  let low = angles[2u * index];
  let high = angles[2u * index + 1u];
  let cosine = vec4f(low.xz, high.xz);
  let sine = sign * vec4f(low.yw, high.yw);
  for (var head = 0u; head < params.heads; head++) {
    let a = x[at];
    let b = x[at + groups];
    x[at] = a * cosine - b * sine;
    x[at + groups] = a * sine + b * cosine;
    at += params.head_size;
  }
}
