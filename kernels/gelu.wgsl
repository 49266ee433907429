// gelu: y = x * Phi(x), Phi the distribution function of the standard normal,
//   exactly           Phi(x) = (1 + erf(x / sqrt(2))) / 2
//   or when TANH      Phi(x) ~ (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)),  u = sqrt(2 / pi) (x + 0.044715 x^3)
// Shapes: x, y [GROUP count].
// Who calls it: ops/activation.ts, gelu.
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
@group(0) @binding(0) var<storage, read> x: array<Group>;
@group(0) @binding(1) var<storage, read_write> y: array<Group>;

// WGSL has no erf. Half of erfc(z) = t P(t) exp(-z^2), t = 1 / (1 + 0.38 z), for z = |x| / sqrt(2) >= 0: P is the
// polynomial of degree 8 with the least relative error (6.4e-8 over z in [0, 20], half a unit of f32), found by
// iteratively reweighted least squares. Exact to rounding in both tails, where 1 + erf would cancel.
fn normal_distribution(x: Group) -> Group {
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
  // min: exp must not see the overflow of a huge square.
  let tail = 0.5 * t * p * exp(-min(0.5 * x * x, Group(87.0)));
  return select(1.0 - tail, tail, x < Group());
}

// The logistic form of (1 + tanh(u)) / 2: tanh itself may overflow inside for large arguments.
fn tanh_distribution(x: Group) -> Group {
  let bounded = clamp(x, Group(-30.0), Group(30.0));
  let u = 0.79788456 * (bounded + 0.044715 * bounded * bounded * bounded);
  return 1.0 / (1.0 + exp(clamp(-2.0 * u, Group(-87.0), Group(87.0))));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let first = (group.y * grid.x + group.x) * (1024u / GROUP) + lane;
  let end = min(first + 1024u / GROUP, params.count);
  for (var i = first; i < end; i += 256u) {
    let value = x[i];
    if (TANH) {
      y[i] = value * tanh_distribution(value);
    } else {
      y[i] = value * normal_distribution(value);
    }
  }
}
