// rope_angles: the rotations of rotary position embedding, for every row and pair.
//   angles[t, i] = (cos, sin) of p_t * theta^(-2i / R)
// Shapes: positions u32 [T]; turns u32 [R/2, 2]; angles [T, R/2, 2]. T = rows, pairs = R/2.
// Who calls it: ops/rope.ts, ropeAngles: once a step, for all layers and both directions.
// Tiling: a lane makes one rotation.
// Exactness: an f32 angle of some thousand radians has lost its fourth decimal, and WGSL promises little of sin and cos. So
// the angle is counted in 2^-32 turns: `turns` holds theta^(-2i / R) / (2 pi) in 2^-32 (a word) and 2^-48 (16 bits), the
// product with the position wraps around exactly as whole turns do, and the rest, reduced to an eighth of a turn either
// way, goes through the Taylor series.
requires immediate_address_space;

struct Params { rows: u32, pairs: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> positions: array<u32>;
@group(0) @binding(1) var<storage, read> turns: array<u32>;
@group(0) @binding(2) var<storage, read_write> angles: array<vec2f>;

// Cosine and sine of `phase` 2^-32 turns.
fn rotation(phase: u32) -> vec2f {
  let quadrant = (phase + 0x20000000u) >> 30u;
  // 2 pi / 2^32 radians a unit: between -pi/4 and pi/4.
  let a = f32(bitcast<i32>(phase - (quadrant << 30u))) * 1.4629181e-9;
  let s = a * a;
  let cosine = 1.0 + s * (-0.5 + s * (0.041666667 + s * (-0.0013888889 + s * 2.4801587e-5)));
  let sine = a * (1.0 + s * (-0.16666667 + s * (0.0083333333 + s * (-0.00019841270 + s * 2.7557319e-6))));
  switch (quadrant & 3u) {
    case 0u: { return vec2f(cosine, sine); }
    case 1u: { return vec2f(-sine, cosine); }
    case 2u: { return vec2f(-cosine, -sine); }
    default: { return vec2f(sine, -cosine); }
  }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let index = (group.y * grid.x + group.x) * 64u + lane;
  if (index >= params.rows * params.pairs) { return; }
  let p = positions[index / params.pairs];
  let pair = index % params.pairs;
  let whole = turns[2u * pair];
  let rest = turns[2u * pair + 1u];
  angles[index] = rotation(p * whole + (p >> 16u) * rest + (((p & 0xffffu) * rest) >> 16u));
}
