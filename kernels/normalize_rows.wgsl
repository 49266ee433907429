// normalize_rows: y[r] = x[r] / ||x[r]||, norm[r] = ||x[r]||, by the inverse square root of the sum of squares.
// A row whose sum of squares is below 1e-24 (a norm below 1e-12) counts as zero: y[r] = 0, norm[r] = 0.
// Shapes: x, y [rows, width]; norm [rows].
// Who calls it: normalizeRows in ops/item-set-normalize.ts.
// Tiling: a workgroup of 64 lanes a row; partial sums meet in a fixed tree, so identical rows give identical results.
requires immediate_address_space;

struct Params { rows: u32, width: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> norm: array<f32>;

const LANES = 64u;
const FLOOR = 1e-24;
var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = wid.y * grid.x + wid.x;
  if (row >= params.rows) { return; }
  let base = row * params.width;
  var sum = 0.0;
  for (var i = index; i < params.width; i += LANES) {
    let value = x[base + i];
    sum = fma(value, value, sum);
  }
  sums[index] = sum;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (index < half) { sums[index] += sums[index + half]; }
  }
  workgroupBarrier();
  let total = sums[0];
  // Not `total > FLOOR`: a row that is not finite must stay so.
  let inverse = select(inverseSqrt(total), 0.0, total < FLOOR);
  for (var i = index; i < params.width; i += LANES) { y[base + i] = x[base + i] * inverse; }
  if (index == 0u) { norm[row] = select(sqrt(total), 0.0, total < FLOOR); }
}
