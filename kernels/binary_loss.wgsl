// binary_loss: binary cross-entropy of a true and a false item of every row, and its slopes.
//   s+ = h_t . true_t,  s- = h_t . false_t,  losses[t] = -log sigmoid(s+) - log(1 - sigmoid(s-))
//   slopes[t] = (d loss / d s+, d loss / d s-) = (sigmoid(s+) - 1, sigmoid(s-))
// Shapes: h [T, D]; pair [2 T, D], the true items' rows, then the false ones'; losses [T]; slopes [T, 2].
// T = rows, D = width.
// Who calls it: ops/binary-loss.ts, binaryLoss (SASRec's original loss).
// Tiling: as layer_norm_forward: `lanes` lanes a row, 64 / lanes rows a workgroup, one barrier.
requires immediate_address_space;

struct Params { rows: u32, width: u32, lanes: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(1) var<storage, read> pair: array<f32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(0) @binding(3) var<storage, read_write> slopes: array<vec2f>;

var<workgroup> partials: array<vec2f, 64>;

// (log(1 + exp(x)), sigmoid(x)); neither overflows: the exponential is of -|x|.
fn softplus_and_slope(x: f32) -> vec2f {
  let e = exp(max(-abs(x), -87.0));
  return vec2f(max(x, 0.0) + log(1.0 + e), select(e, 1.0, x >= 0.0) / (1.0 + e));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = (group.y * grid.x + group.x) * (64u / params.lanes) + index / params.lanes;
  let lane = index % params.lanes;
  let start = row * params.width;
  let end = select(start, start + params.width, row < params.rows);
  let to_false = params.rows * params.width;
  var sums = vec2f(0.0);
  for (var i = start + lane; i < end; i += params.lanes) {
    sums += h[i] * vec2f(pair[i], pair[to_false + i]);
  }
  partials[index] = sums;
  workgroupBarrier();
  if (lane > 0u || row >= params.rows) { return; }
  var scores = vec2f(0.0);
  for (var i = 0u; i < params.lanes; i++) { scores += partials[index + i]; }
  let positive = softplus_and_slope(-scores.x);
  let negative = softplus_and_slope(scores.y);
  losses[row] = positive.x + negative.x;
  slopes[row] = vec2f(-positive.y, negative.y);
}
