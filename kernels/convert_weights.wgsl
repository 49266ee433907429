// convert_weights: weights of a checkpoint's file, F32 or, in a variant, as kernels/file/*.wgsl say, made f32 or (HALVES) f16:
// widened exactly, or rounded to nearest, ties to even. found[at] becomes 1 when one is not finite in the type that is made.
// Shapes: x are the file's bytes, eight elements from each of `count` lanes; y the weights' tensor from its group `to` of four
// u32 words on; found u32 [*]. Rounding is done on bits: floating-point arithmetic might round otherwise, or lose what
// is subnormal; src/files/half.ts does the same on the host, to the bit.
// Who calls it: ops/convert-weights.ts.
// Tiling: one lane for eight elements, which are whole groups of four words in every type.
requires immediate_address_space;

override HALVES: bool = false;

struct Params { count: u32, to: u32, at: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4u>;
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

// The f16 nearest to f32 bits, ties to even; too large ones become infinite.
fn narrow(bits: vec4u) -> vec4u {
  let magnitude = bits & vec4u(0x7fffffffu);
  // Exponents of f16 are 113 to 142, its subnormals reach down to 102; below, all is zero. From 65520 up, infinity.
  let exponent = min(magnitude, vec4u(0x477ff000u)) >> vec4u(23u);
  let mantissa = select((magnitude & vec4u(0x7fffffu)) | vec4u(0x800000u), vec4u(0u), exponent < vec4u(102u));
  // Bits that are cut off: 13, and one more for each step below 113.
  let cut = vec4u(126u) - clamp(exponent, vec4u(102u), vec4u(113u));
  let odd = (mantissa >> cut) & vec4u(1u);
  let rounded = (mantissa + (vec4u(1u) << (cut - 1u)) - 1u + odd) >> cut;
  // The leading one of the mantissa, and a carry, count in the exponent.
  let half = rounded + ((max(exponent, vec4u(113u)) - 113u) << vec4u(10u));
  return ((bits >> vec4u(16u)) & vec4u(0x8000u)) | select(half, vec4u(0x7c00u), magnitude >= vec4u(0x477ff000u));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * grid.x + group.x) * 64u + lane;
  if (i >= params.count) { return; }
  let bits = eight(i);
  let most = max(bits.even & vec4u(0x7fffffffu), bits.odd & vec4u(0x7fffffffu));
  if (any(most >= vec4u(select(0x7f800000u, 0x477ff000u, HALVES)))) { atomicOr(&found[params.at], 1u); }
  if (HALVES) {
    y[params.to + i] = narrow(bits.even) | (narrow(bits.odd) << vec4u(16u));
  } else {
    y[params.to + 2u * i] = vec4u(bits.even.x, bits.odd.x, bits.even.y, bits.odd.y);
    y[params.to + 2u * i + 1u] = vec4u(bits.even.z, bits.odd.z, bits.even.w, bits.odd.w);
  }
}
