// column_peaks: the largest magnitude of every column, band by band of rows.
//   peaks[b, n] = max_m |a[m, n]|   over the BAND rows m of band b, as the bits of an f32
// Magnitudes compare as their bits do; so compared, infinity and NaN are the largest on every adapter.
// Shapes: a [rows, columns], rows of lda elements from element a_offset on; peaks u32 [bands, columns].
// Who calls it: ops/pack-columns.ts, before pack_columns.wgsl.
// Tiling: a workgroup takes 64 neighbouring columns of a band, a lane one of them: lanes read neighbouring elements. Bands
// make enough workgroups of a matrix that is long and narrow.
requires immediate_address_space;

const BAND = 128u;

struct Params { rows: u32, columns: u32, lda: u32, a_offset: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> peaks: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = group.x * 64u + lane;
  if (column >= params.columns) { return; }
  let end = min((group.y + 1u) * BAND, params.rows);
  var most = 0u;
  for (var row = group.y * BAND; row < end; row++) {
    most = max(most, bitcast<u32>(a[params.a_offset + row * params.lda + column]) & 0x7fffffffu);
  }
  peaks[group.y * params.columns + column] = most;
}
