// f16: eight weights of a checkpoint's file that holds F16.
// Not a kernel: src/gpu/variant.ts puts these lines in place of those between "begin file" and "end file" of a kernel, which
// read F32.
fn eight(i: u32) -> Eight { return Eight(widen(x[i] & vec4u(0xffffu)), widen(x[i] >> vec4u(16u))); }

// The f32 of f16 bits; infinities and NaN become such.
fn widen(half: vec4u) -> vec4u {
  let magnitude = half & vec4u(0x7fffu);
  let rebased = (magnitude << vec4u(13u)) + select(vec4u(0x38000000u), vec4u(0x70000000u), magnitude >= vec4u(0x7c00u));
  // Subnormal: the mantissa in units of 2^-24, an ordinary f32.
  let small = bitcast<vec4u>(vec4f(magnitude) * 0x1p-24);
  return ((half & vec4u(0x8000u)) << vec4u(16u)) | select(rebased, small, magnitude < vec4u(0x0400u));
}
