// item_set_logit_gradient: turns a panel of dot products into the gradient of the cross-entropies with respect to them,
// in place.
//   panel[q, i] = scale * d_losses[q] * (exp(scale * panel[q, i] + bias[i] - lse[q]) - [i = targets[q]])
// Shapes: panel [queries, pitch], `items` items from item `first` on, pitch a multiple of 4; bias [I]; targets u32, lse,
// d_losses [queries].
// Who calls it: crossEntropyGradient in ops/item-set.ts, which multiplies the panel with the items (dh) and with the
// hidden states (dItems).
// Tiling: workgroups of 64 lanes, each lane up to four groups of four items of one query.
requires immediate_address_space;

override BIAS: bool = false;

struct Params { queries: u32, items: u32, pitch: u32, first: u32, chunks: u32, scale: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> bias: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> d_losses: array<f32>;
@group(0) @binding(4) var<storage, read_write> panel: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let group = wid.y * grid.x + wid.x;
  let query = group / params.chunks;
  if (query >= params.queries) { return; }
  let begin = group % params.chunks * 256u;
  let end = min(begin + 256u, (params.items + 3u) / 4u);
  let own = targets[query] - params.first;
  let log_sum = lse[query];
  let weight = params.scale * d_losses[query];
  for (var g = begin + index; g < end; g += 64u) {
    let i = 4u * g;
    var b = vec4f(0.0);
    if (BIAS) {
      let at = params.first + i;
      let stop = params.first + params.items - 1u;
      b = vec4f(bias[at], bias[min(at + 1u, stop)], bias[min(at + 2u, stop)], bias[min(at + 3u, stop)]);
    }
    let at = query * (params.pitch >> 2u) + g;
    let p = exp(fma(vec4f(params.scale), panel[at], b) - log_sum);
    let hit = select(vec4f(0.0), vec4f(1.0), vec4u(i, i + 1u, i + 2u, i + 3u) == vec4u(own));
    panel[at] = weight * (p - hit);
  }
}
