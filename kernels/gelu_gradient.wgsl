// gelu_gradient: dx = dy * (Phi(x) + x * Phi'(x)), Phi as in gelu.wgsl:
//   exactly           Phi'(x) = exp(-x^2 / 2) / sqrt(2 pi)
//   or when TANH      Phi'(x) = Phi (1 - Phi) * 2 u'(x),  u' = sqrt(2 / pi) (1 + 3 * 0.044715 x^2)
// Shapes: dy, x, dx [count].
// Who calls it: ops/activation.ts, geluGradient.
// Tiling: a lane takes four elements, 256 apart, so that neighbouring lanes touch neighbouring elements.
requires immediate_address_space;

override TANH: bool = false;

struct Params { count: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;

// The same approximation as in gelu.wgsl, where it is explained; the exponential is shared with the density.
fn normal_slope(x: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.38 * 0.70710678 * abs(x));
  var p = 0.05529046;
  p = p * t - 0.24577811;
  p = p * t + 0.33269918;
  p = p * t - 0.12927094;
  p = p * t + 0.21022925;
  p = p * t + 0.14603391;
  p = p * t + 0.20228417;
  p = p * t + 0.21411033;
  p = p * t + 0.21440178;
  let exponential = exp(-min(0.5 * x * x, 87.0));
  let tail = 0.5 * t * p * exponential;
  return select(1.0 - tail, tail, x < 0.0) + x * 0.39894228 * exponential;
}

fn tanh_slope(x: f32) -> f32 {
  let bounded = clamp(x, -30.0, 30.0);
  let u = 0.79788456 * (bounded + 0.044715 * bounded * bounded * bounded);
  let phi = 1.0 / (1.0 + exp(clamp(-2.0 * u, -87.0, 87.0)));
  return phi + bounded * phi * (1.0 - phi) * 1.59576912 * (1.0 + 0.134145 * bounded * bounded);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let first = (group.y * grid.x + group.x) * 1024u + lane;
  let end = min(first + 1024u, params.count);
  for (var i = first; i < end; i += 256u) {
    let value = x[i];
    if (TANH) {
      dx[i] = dy[i] * tanh_slope(value);
    } else {
      dx[i] = dy[i] * normal_slope(value);
    }
  }
}
