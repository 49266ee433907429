// item_set_bias_gradient: d_bias[first + i] (+)= factor * sum_q panel[q, i], the queries in order.
// Shapes: panel [queries, pitch], written by item_set_logit_gradient, `items` items, pitch a multiple of 4; d_bias [I].
// Who calls it: crossEntropyGradient in ops/item-set.ts; factor = 1 / scale undoes the scale in the panel.
// Tiling: a lane four items; neighbouring lanes read neighbouring groups of four.
requires immediate_address_space;

override ACCUMULATE: bool = false;

struct Params { queries: u32, items: u32, pitch: u32, first: u32, factor: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> panel: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> d_bias: array<f32>;

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = 4u * id.x;
  if (i >= params.items) { return; }
  var sum = vec4f(0.0);
  for (var q = 0u; q < params.queries; q++) { sum += panel[q * (params.pitch >> 2u) + id.x]; }
  sum *= params.factor;
  for (var j = 0u; j < 4u; j++) {
    if (i + j < params.items) {
      let at = params.first + i + j;
      d_bias[at] = select(0.0, d_bias[at], ACCUMULATE) + sum[j];
    }
  }
}
