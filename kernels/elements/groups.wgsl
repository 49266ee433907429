// groups: elements in groups of four neighbours, where a row's width or an array's length is a multiple of four. A load of
// four costs what a load of one does on software adapters, where loads are most of the time, and is the widest that GPUs
// have. The kernel's params count groups then, not elements.
// Not a kernel: src/gpu/variant.ts puts these lines in place of those between "begin elements" and "end elements" of a
// kernel, which take one element at a time.
alias Group = vec4f;
const GROUP = 4u;
fn total(group: Group) -> f32 { return (group.x + group.y) + (group.z + group.w); }
