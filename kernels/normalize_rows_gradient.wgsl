// normalize_rows_gradient: dx[r] = (dy[r] - y[r] (y[r] . dy[r])) / norm[r]; zero for rows that count as zero (norm 0).
// Shapes: dy, y, dx [rows, width]; norm [rows].
// Who calls it: normalizeRowsGradient in ops/item-set-normalize.ts.
// Tiling: as normalize_rows.
requires immediate_address_space;

struct Params { rows: u32, width: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> norm: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;

const LANES = 64u;
var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let row = wid.y * grid.x + wid.x;
  if (row >= params.rows) { return; }
  let base = row * params.width;
  var sum = 0.0;
  for (var i = index; i < params.width; i += LANES) { sum = fma(y[base + i], dy[base + i], sum); }
  sums[index] = sum;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (index < half) { sums[index] += sums[index + half]; }
  }
  workgroupBarrier();
  let along = sums[0];
  let length = norm[row];
  var inverse = 0.0;
  if (length != 0.0) { inverse = 1.0 / length; }
  for (var i = index; i < params.width; i += LANES) {
    dx[base + i] = (dy[base + i] - y[base + i] * along) * inverse;
  }
}
