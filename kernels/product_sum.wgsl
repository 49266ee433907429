// product_sum: c[i] = sum_z partials[z, i], z in order  (+ c[i] when ACCUMULATE): the end of a product whose reduction was
// split into `splits` parts.
// Shapes: partials [splits, size], c [size].
// Who calls it: ops/slab-sum.ts, for products on and off tensor cores and the gradients of the item set.
// Tiling: a lane an element, neighbouring lanes read neighbouring elements; `size` is small (that is why it was split).
requires immediate_address_space;

override ACCUMULATE: bool = false;

struct Params { size: u32, splits: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read_write> c: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * grid.x + group.x) * 64u + lane;
  if (i >= params.size) { return; }
  var sum = 0.0;
  for (var z = 0u; z < params.splits; z++) { sum += partials[z * params.size + i]; }
  if (ACCUMULATE) { sum += c[i]; }
  c[i] = sum;
}
