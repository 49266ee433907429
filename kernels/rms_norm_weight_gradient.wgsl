// rms_norm_weight_gradient: the gradient of RMS normalisation with respect to its weight, block by block,
//   dw[block, j] = sum_r dy[r, j] * x[r, j] * rstd[r]   over the rows r of the block; added when ACCUMULATE.
// Shapes: dy, x [R, D]; rstd [R]; dw [blocks, D], D = GROUP width, added up by column_sum when there are several blocks.
// Who calls it: ops/norm.ts, rmsNormGradient.
// Tiling: as layer_norm_weight_gradient: a lane owns a column, or a group of four, and walks down its block; no barrier.
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
@group(0) @binding(2) var<storage, read> rstd: array<f32>;
@group(0) @binding(3) var<storage, read_write> dw: array<Group>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = group.x * 64u + lane;
  if (column >= params.width) { return; }
  let first = group.y * params.block_rows;
  let end = min(first + params.block_rows, params.rows);
  var sum = Group();
  for (var row = first; row < end; row++) {
    let i = row * params.width + column;
    sum += dy[i] * (x[i] * rstd[row]);
  }
  let at = group.y * params.width + column;
  if (ACCUMULATE) { sum += dw[at]; }
  dw[at] = sum;
}
