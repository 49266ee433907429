// item_set_terms: what item_set_rows_gradient.wgsl needs of each query, together: one load instead of three, one binding of
// the eight that WebGPU guarantees.
//   terms[q] = (bits of lse[q], bits of scale * d_losses[q], targets[q], 0)
// Shapes: lse, d_losses [queries]; targets u32 [queries]; terms [queries, 4] u32.
// Who calls it: crossEntropyGradient in ops/item-set-gradient.ts.
// Tiling: a lane a query.
requires immediate_address_space;

struct Params { queries: u32, scale: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> targets: array<u32>;
@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> d_losses: array<f32>;
@group(0) @binding(3) var<storage, read_write> terms: array<vec4u>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let q = id.x;
  if (q >= params.queries) { return; }
  terms[q] = vec4u(bitcast<u32>(lse[q]), bitcast<u32>(params.scale * d_losses[q]), targets[q], 0u);
}
