// column_sum: out[block, j] = sum_r x[r, j] over the rows r of the block; added to what was there when ACCUMULATE.
// Shapes: x [R, D], out [blocks, D]. R = rows, D = GROUP width.
// Who calls it: ops/reduce.ts, columnSum (bias gradients), in one stage for few rows, else in two: blocks of rows first,
// then the blocks. Also the second stage of the weight gradients of ops/norm.ts.
// Tiling: a lane owns a column, or a group of four, and walks down its block of rows, so that the 64 lanes of a workgroup
// read neighbouring elements; no barrier. The order of the sums is fixed: the result repeats to the bit.
requires immediate_address_space;

override ACCUMULATE: bool = false;

// begin elements
// One at a time; kernels/elements/groups.wgsl takes groups of four.
alias Group = f32;
const GROUP = 1u;
fn total(group: Group) -> f32 { return group; }
// end elements

struct Params { rows: u32, width: u32, block_rows: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<Group>;
@group(0) @binding(1) var<storage, read_write> out: array<Group>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = group.x * 64u + lane;
  if (column >= params.width) { return; }
  let first = group.y * params.block_rows;
  let end = min(first + params.block_rows, params.rows);
  var sum = Group();
  for (var row = first; row < end; row++) { sum += x[row * params.width + column]; }
  let at = group.y * params.width + column;
  if (ACCUMULATE) { sum += out[at]; }
  out[at] = sum;
}
