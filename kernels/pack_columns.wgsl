// pack_columns: the columns of a matrix as rows of f16, each with a power of two of its own, for tensor cores.
//   packed[n, m] = f16(a[m, n] / 2^e)     scales[n] = 2^e     2^14 <= max_m |a[m, n]| / 2^e < 2^15
// as pack_rows.wgsl, of the matrix transposed: the left operand dy^T of a weight gradient.
// Shapes: a [rows, columns], rows of lda elements from element a_offset on; peaks u32 [bands, columns] from
// column_peaks.wgsl; packed u32 [columns, words], two f16 to a word, the first in the lower half, zero past `rows`, words a
// multiple of 16; scales [columns].
// Who calls it: ops/pack-columns.ts, for kernels/product_matrix.wgsl.
// Tiling: a workgroup of 256 lanes turns 64 rows of 32 columns over in workgroup memory: it reads neighbouring columns and
// writes neighbouring words. The tile's rows are padded by one word, so that a column does not lie in one memory bank.
requires immediate_address_space;

struct Params { rows: u32, columns: u32, lda: u32, a_offset: u32, words: u32, bands: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> peaks: array<u32>;
@group(0) @binding(2) var<storage, read_write> packed: array<u32>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;

const LANES = 256u;
const COLUMNS = 32u;
const ROWS = 64u;
const PITCH = COLUMNS + 1u;
// Lanes that look for the peak of one column.
const SHARE = LANES / COLUMNS;
// Exponents as f32 stores them, with 127 added.
const NOT_FINITE = 255u;
// The largest magnitude of a column gets this one: 2^14.
const LARGEST = 141u;

var<workgroup> tile: array<f32, ROWS * PITCH>;
var<workgroup> largest: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first_column = group.x * COLUMNS;
  let first_row = group.y * ROWS;
  // Lane (i, n) looks through bands i, i + SHARE, ... of column n.
  let own = first_column + lane % COLUMNS;
  var most = 0u;
  if (own < params.columns) {
    for (var band = lane / COLUMNS; band < params.bands; band += SHARE) {
      most = max(most, peaks[band * params.columns + own]);
    }
  }
  largest[lane] = most;
  for (var i = lane; i < ROWS * COLUMNS; i += LANES) {
    let row = first_row + i / COLUMNS;
    var value = 0.0;
    if (row < params.rows && own < params.columns) { value = a[params.a_offset + row * params.lda + own]; }
    tile[i / COLUMNS * PITCH + lane % COLUMNS] = value;
  }
  workgroupBarrier();
  // A word holds two rows of a column.
  for (var i = lane; i < COLUMNS * (ROWS / 2u); i += LANES) {
    let n = i / (ROWS / 2u);
    let pair = i % (ROWS / 2u);
    let column = first_column + n;
    let word = first_row / 2u + pair;
    var peak = 0u;
    for (var j = 0u; j < SHARE; j++) { peak = max(peak, largest[j * COLUMNS + n]); }
    let exponent = peak >> 23u;
    // Both 2^e and its inverse stay normal numbers.
    let bounded = clamp(exponent, LARGEST - 126u, NOT_FINITE - 1u);
    let inverse = bitcast<f32>((127u + LARGEST - bounded) << 23u);
    if (column < params.columns) {
      if (word < params.words) {
        packed[column * params.words + word] =
          pack2x16float(vec2f(tile[2u * pair * PITCH + n], tile[(2u * pair + 1u) * PITCH + n]) * inverse);
      }
      if (word == 0u) {
        // Not a constant expression: those may not be NaN.
        let nan = exponent | 0x7fc00000u;
        scales[column] = bitcast<f32>(select((bounded + 127u - LARGEST) << 23u, nan, exponent == NOT_FINITE));
      }
    }
  }
}
