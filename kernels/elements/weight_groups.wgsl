// weight_groups: weights in groups of four neighbours, where a row's width is a multiple of four, whatever their storage. The
// kernel's width counts groups then, not elements.
// Not a kernel: src/gpu/variant.ts puts these lines in place of those between "begin elements" and "end elements" of a
// kernel, which take one element at a time.
alias Group = vec4f;
const GROUP = 4u;
fn element(row: u32, column: u32, width: u32) -> Group { return weight4(row, 4u * column, 4u * width); }
