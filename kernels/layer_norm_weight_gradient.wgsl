// layer_norm_weight_gradient: the gradients of layer normalisation with respect to weight and bias, block by block,
//   dw[block, j] = sum_r dy[r, j] * (x[r, j] - mean[r]) * rstd[r]      db[block, j] = sum_r dy[r, j]
//   over the rows r of the block; added to what was there when ACCUMULATE.
// Shapes: dy, x [R, D]; mean, rstd [R]; dw, db [blocks, D], D = GROUP width. With one block they are the gradients themselves; otherwise
// column_sum adds the blocks up, in order, so that the result repeats to the bit.
// Who calls it: ops/norm.ts, layerNormGradient.
// Tiling: a lane owns a column, or a group of four, and walks down its block of rows, so that the 64 lanes of a workgroup
// read neighbouring elements; no barrier.
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
@group(0) @binding(0) var<storage, read> dy: array<Group>;
@group(0) @binding(1) var<storage, read> x: array<Group>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read> rstd: array<f32>;
@group(0) @binding(4) var<storage, read_write> dw: array<Group>;
@group(0) @binding(5) var<storage, read_write> db: array<Group>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = group.x * 64u + lane;
  if (column >= params.width) { return; }
  let first = group.y * params.block_rows;
  let end = min(first + params.block_rows, params.rows);
  var sum_w = Group();
  var sum_b = Group();
  for (var row = first; row < end; row++) {
    let i = row * params.width + column;
    sum_w += dy[i] * ((x[i] - mean[row]) * rstd[row]);
    sum_b += dy[i];
  }
  let at = group.y * params.width + column;
  if (ACCUMULATE) {
    sum_w += dw[at];
    sum_b += db[at];
  }
  dw[at] = sum_w;
  db[at] = sum_b;
}
