// quantize_weights: weights of a checkpoint's file, F32 or, in a variant, as kernels/file/*.wgsl say, as codes of BITS = 8 or 4
// bits with a scale in f16 for 64 columns of a row, in the layout of kernels/weights/quantized.wgsl. For the values v of a group,
// m the first of largest magnitude, Q = 2^(BITS - 1):
//
//   scale = -m, its magnitude rounded up to f16        code = min(Q - 1, round(Q v / scale)), ties to even
//
// found[at] becomes 1 when an m is beyond f16, or not a number.
// Shapes: x are the file's bytes, [rows, width], width a multiple of 8; y the weights' tensor from its word `to` on; found u32
// [*]. The quotient is rounded exactly, whatever the adapter's division: src/llm/quantize.ts does the same on the host, to the bit.
// Who calls it: ops/convert-weights.ts.
// Tiling: one lane for two groups, whose scales share a word. It reads them twice, the second time from cache.
requires immediate_address_space;

override BITS: u32 = 8u;

struct Params { rows: u32, width: u32, to: u32, at: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<storage, read_write> found: array<atomic<u32>>;

// The bits of eight f32: elements 0, 2, 4 and 6, and 1, 3, 5 and 7.
struct Eight { even: vec4u, odd: vec4u }

// begin file
fn eight(i: u32) -> Eight {
  let a = x[2u * i];
  let b = x[2u * i + 1u];
  return Eight(vec4u(a.xz, b.xz), vec4u(a.yw, b.yw));
}
// end file

// The bits of the first of largest magnitude among `count` times eight elements. Compared as bits, whose order is that of
// magnitudes: nothing subnormal is lost.
fn largest(begin: u32, count: u32) -> u32 {
  // The first of largest magnitude among the elements at each place of the eight, and which eight that is.
  var even = vec4u(0u);
  var odd = vec4u(0u);
  var even_at = vec4u(0u);
  var odd_at = vec4u(0u);
  for (var k = 0u; k < count; k++) {
    let v = eight(begin + k);
    let evens = (v.even & vec4u(0x7fffffffu)) > (even & vec4u(0x7fffffffu));
    let odds = (v.odd & vec4u(0x7fffffffu)) > (odd & vec4u(0x7fffffffu));
    even = select(even, v.even, evens);
    odd = select(odd, v.odd, odds);
    even_at = select(even_at, vec4u(k), evens);
    odd_at = select(odd_at, vec4u(k), odds);
  }
  var m = 0u;
  var at = 0u;
  for (var j = 0u; j < 8u; j++) {
    let bits = select(even[j / 2u], odd[j / 2u], j % 2u == 1u);
    let own = select(even_at[j / 2u], odd_at[j / 2u], j % 2u == 1u);
    let difference = i32(bits & 0x7fffffffu) - i32(m & 0x7fffffffu);
    if (difference > 0 || (difference == 0 && own < at)) {
      m = bits;
      at = own;
    }
  }
  return m;
}

// The f16 of least magnitude that is at least that of f32 bits; infinite beyond the range.
fn outward_half(bits: u32) -> u32 {
  let magnitude = min(bits & 0x7fffffffu, 0x47800000u);
  // As narrow of convert_weights.wgsl; every bit that is cut off counts, down to the smallest subnormal, 2^-24.
  let exponent = max(magnitude, 0x33800000u) >> 23u;
  let cut = 126u - min(exponent, 113u);
  let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  let half = ((mantissa + (1u << cut) - 1u) >> cut) + ((max(exponent, 113u) - 113u) << 10u);
  return ((bits >> 16u) & 0x8000u) | select(half, 1u, magnitude < 0x33800000u);
}

// What the bits of a finite f16 stand for.
fn from_half(half: u32) -> f32 {
  let magnitude = half & 0x7fffu;
  let value = select(bitcast<f32>((magnitude << 13u) + 0x38000000u), f32(magnitude) * 0x1p-24, magnitude < 0x0400u);
  return select(value, -value, half >= 0x8000u);
}

// min(Q - 1, round(Q v / scale)), ties to even, of bits v; factor is about Q / scale. Its first rounding is right to one, and
// what it leaves, 2 Q v - 2 c scale, has few enough bits to be exact unless it is at least |scale| however it is rounded: compared with
// that, it says whether to step.
fn codes(bits: vec4u, scale: f32, factor: f32) -> vec4u {
  let v = bitcast<vec4f>(bits);
  let near = round(v * factor);
  let rest = v * f32(1u << BITS) - near * (2.0 * scale);
  let c = vec4i(near);
  let odd = (c & vec4i(1)) == vec4i(1);
  let step = (abs(rest) > vec4f(abs(scale))) | ((abs(rest) == vec4f(abs(scale))) & odd);
  let up = select(vec4i(-1), vec4i(1), (rest < vec4f(0.0)) == vec4<bool>(scale < 0.0));
  let nearest = c + select(vec4i(0), up, step);
  return bitcast<vec4u>(min(nearest, vec4i((1i << (BITS - 1u)) - 1i))) & vec4u((1u << BITS) - 1u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let pairs = (params.width + 127u) / 128u;
  let index = (group.y * grid.x + group.x) * 64u + lane;
  let row = index / pairs;
  let pair = index % pairs;
  if (row >= params.rows) { return; }
  let code_words = params.width * BITS / 32u;
  let start = params.to + row * (code_words + pairs);
  var scales = 0u;
  for (var g = 0u; g < 2u; g++) {
    let column = pair * 128u + g * 64u;
    if (column >= params.width) { break; }
    let begin = (row * params.width + column) / 8u;
    let count = min(64u, params.width - column) / 8u;
    let m = largest(begin, count);
    // The scale of a group of zeros is zero, and so are its codes.
    let half = select(outward_half(m ^ 0x80000000u), 0u, m == 0u);
    scales |= half << (16u * g);
    if ((half & 0x7fffu) >= 0x7c00u) { atomicOr(&found[params.at], 1u); }
    let scale = select(from_half(half), 1.0, m == 0u);
    let factor = f32(1u << (BITS - 1u)) / scale;
    for (var k = 0u; k < count; k++) {
      let v = eight(begin + k);
      let even = codes(v.even, scale, factor);
      let odd = codes(v.odd, scale, factor);
      let two = even | (odd << vec4u(BITS));
      if (BITS == 8u) {
        y[start + column / 4u + 2u * k] = two.x | (two.y << 16u);
        y[start + column / 4u + 2u * k + 1u] = two.z | (two.w << 16u);
      } else {
        y[start + column / 8u + k] = two.x | (two.y << 8u) | (two.z << 16u) | (two.w << 24u);
      }
    }
  }
  y[start + code_words + pair] = scales;
}
