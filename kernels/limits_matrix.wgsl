// limits_matrix: sixteen sums S <- A B + S of subgroup matrices, again and again: measures how many multiplications and
// additions a second the tensor cores make (f16 operands, f32 sums) when nothing has to be fetched.
// Shapes: y [workgroups, 64, ROWS, COLUMNS], every sum of the four subgroups.
// Who calls it: bench/harness.js, as the limit that products on tensor cores have a share of.
// Tiling: four subgroups a workgroup, each with the 4 x 4 sums of product_matrix.wgsl; params.turns multiplications of
// each. Variants say what the adapter has, as there. The build reads this file without the bodies of its functions.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
requires immediate_address_space;
requires subgroup_id;
// All lanes of a subgroup take the same turns below; the rule that proves it does not follow subgroup_id.
diagnostic(off, chromium.subgroup_matrix_uniformity);

const SUBGROUP = 32u;
const ROWS = 16u;
const COLUMNS = 16u;
const DEPTH = 16u;
const LANES = 4u * SUBGROUP;

struct Params { turns: u32, left: f32, right: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_id) subgroup: u32) {
  var left: array<subgroup_matrix_left<f16, DEPTH, ROWS>, 4>;
  var right: array<subgroup_matrix_right<f16, COLUMNS, DEPTH>, 4>;
  for (var i = 0u; i < 4u; i++) {
    left[i] = subgroup_matrix_left<f16, DEPTH, ROWS>(f16(params.left));
    right[i] = subgroup_matrix_right<f16, COLUMNS, DEPTH>(f16(params.right));
  }
  var sums: array<array<subgroup_matrix_result<f32, COLUMNS, ROWS>, 4>, 4>;
  for (var turn = 0u; turn < params.turns; turn++) {
    for (var i = 0u; i < 4u; i++) {
      for (var j = 0u; j < 4u; j++) { sums[i][j] = subgroupMatrixMultiplyAccumulate(left[i], right[j], sums[i][j]); }
    }
  }
  // Every sum is stored somewhere: none may be left out.
  for (var i = 0u; i < 4u; i++) {
    for (var j = 0u; j < 4u; j++) {
      let place = ((group.x * 4u + subgroup) * 4u + i) * 4u + j;
      subgroupMatrixStore<row_major>(&y, place * ROWS * COLUMNS, sums[i][j], COLUMNS);
    }
  }
}
