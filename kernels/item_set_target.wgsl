// item_set_target: scores[q] = h[q] . items[targets[q]] (+ bias), for the targets inside a window of the item set.
// Shapes: h [queries, width]; items (`weights`) [items, width], f32 or, in a variant, as kernels/weights/f16.wgsl
// says, the window from item first_item on; bias [I];
// targets u32 [queries]; scores [queries], written for the targets in the window only.
// Who calls it: rankTargets in ops/item-set-rank.ts.
// Tiling: a lane a query. The sum is the sequence of fused multiply-adds that the product kernels do for
// an element, so it equals, to the bit, the score that item_set_rank sees for the same item.
requires immediate_address_space;

override BIAS: bool = false;

struct Params { queries: u32, items: u32, width: u32, first_item: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read_write> scores: array<f32>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<f32>;

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 { return weights[row * width + column]; }
// end weights

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let query = id.x;
  if (query >= params.queries) { return; }
  let item = targets[query] - params.first_item;  // wraps past `items` when the target lies before the window
  if (item >= params.items) { return; }
  var sum = 0.0;
  for (var k = 0u; k < params.width; k++) {
    sum = fma(h[query * params.width + k], weight(item, k, params.width), sum);
  }
  if (BIAS) { sum += bias[params.first_item + item]; }
  scores[query] = sum;
}
