// bf16: eight weights of a checkpoint's file that holds BF16, the upper halves of f32.
// Not a kernel: src/gpu/variant.ts puts these lines in place of those between "begin file" and "end file" of a kernel, which
// read F32.
fn eight(i: u32) -> Eight { return Eight(x[i] << vec4u(16u), x[i] & vec4u(0xffff0000u)); }
