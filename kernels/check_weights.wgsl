// check_weights: found[at] becomes 1 when one of the weights is NaN or infinite: weights of a checkpoint's file that are
// stored as they are, f32 or (HALVES) f16, two to a word.
// Shapes: x the weights, `count` groups of four u32 words from the group `first` on; found u32 [*].
// Who calls it: ops/convert-weights.ts.
// Tiling: one lane for four groups, a stride of the grid apart; neighbouring lanes neighbouring groups.
requires immediate_address_space;

override HALVES: bool = false;

struct Params { count: u32, first: u32, at: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> found: array<atomic<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let stride = grid.x * grid.y * 64u;
  var most = vec4u(0u);
  for (var i = (group.y * grid.x + group.x) * 64u + lane; i < params.count; i += stride) {
    let words = x[params.first + i];
    if (HALVES) {
      most = max(most, max(words & vec4u(0x7fffu), (words >> vec4u(16u)) & vec4u(0x7fffu)));
    } else {
      most = max(most, words & vec4u(0x7fffffffu));
    }
  }
  // The exponent of infinities and NaN is all ones.
  if (any(most >= vec4u(select(0x7f800000u, 0x7c00u, HALVES)))) { atomicOr(&found[params.at], 1u); }
}
