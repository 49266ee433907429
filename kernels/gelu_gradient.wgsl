// gelu_gradient: dx = dy * (Phi(x) + x * Phi'(x)), Phi as in gelu.wgsl:
//   exactly           Phi'(x) = exp(-x^2 / 2) / sqrt(2 pi)
//   or when TANH      Phi'(x) = Phi (1 - Phi) * 2 u'(x),  u' = sqrt(2 / pi) (1 + 3 * 0.044715 x^2)
// Shapes: dy, x, dx [GROUP count].
// Who calls it: ops/activation.ts, geluGradient.
// Tiling: a lane takes four elements: a group, or 256 apart, so that neighbouring lanes touch neighbouring elements.
requires immediate_address_space;

override TANH: bool = false;

// begin elements
// One at a time; kernels/elements/groups.wgsl takes groups of four.
alias Group = f32;
const GROUP = 1u;
fn total(group: Group) -> f32 { return group; }
// end elements

struct Params { count: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> dy: array<Group>;
@group(0) @binding(1) var<storage, read> x: array<Group>;
@group(0) @binding(2) var<storage, read_write> dx: array<Group>;

// The same approximation as in gelu.wgsl, where it is explained; the exponential is shared with the density.
fn normal_slope(x: Group) -> Group {
  let t = 1.0 / (1.0 + 0.38 * 0.70710678 * abs(x));
  var p = Group(0.05529046);
  p = p * t - 0.24577811;
  p = p * t + 0.33269918;
  p = p * t - 0.12927094;
  p = p * t + 0.21022925;
  p = p * t + 0.14603391;
  p = p * t + 0.20228417;
  p = p * t + 0.21411033;
  p = p * t + 0.21440178;
  let exponential = exp(-min(0.5 * x * x, Group(87.0)));
  let tail = 0.5 * t * p * exponential;
  return select(1.0 - tail, tail, x < Group()) + x * 0.39894228 * exponential;
}

fn tanh_slope(x: Group) -> Group {
  let bounded = clamp(x, Group(-30.0), Group(30.0));
  let u = 0.79788456 * (bounded + 0.044715 * bounded * bounded * bounded);
  let phi = 1.0 / (1.0 + exp(clamp(-2.0 * u, Group(-87.0), Group(87.0))));
  return phi + bounded * phi * (1.0 - phi) * 1.59576912 * (1.0 + 0.134145 * bounded * bounded);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let first = (group.y * grid.x + group.x) * (1024u / GROUP) + lane;
  let end = min(first + 1024u / GROUP, params.count);
  for (var i = first; i < end; i += 256u) {
    let value = x[i];
    if (TANH) {
      dx[i] = dy[i] * tanh_slope(value);
    } else {
      dx[i] = dy[i] * normal_slope(value);
    }
  }
}
