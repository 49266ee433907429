// pack_rows: the rows of an f32 matrix as f16, each with a power of two of its own, for tensor cores.
//   packed[m, k] = f16(a[m, k] / 2^e)     scales[m] = 2^e     2^14 <= max_k |a[m, k]| / 2^e < 2^15
// Shapes: a is [rows, width] with rows of lda elements, from element a_offset on; packed [rows, words] u32, two f16 to a
// word, the first in the lower half, zero past `width`; words is a multiple of 16; scales f32 [rows].
// Who calls it: ops/product-matrix.ts, for the left operand of kernels/product_matrix.wgsl.
// Why powers of two: scaling by them is exact, so an element has the 11 bits that f16 gives, whatever the magnitude of
// its row. Gradients of 1e-9 and activations of 1e6 neither vanish nor overflow, and no loss needs scaling. An element
// 2^29 times smaller than the largest of its row is lost, as it would be in the f32 sum of a product.
// A row that holds NaN or infinity gets the scale NaN, so that its products are NaN, not a number that looks right.
// Tiling: a workgroup of 64 lanes takes a row twice: once for its largest magnitude, once to write it.
requires immediate_address_space;

struct Params { width: u32, lda: u32, a_offset: u32, words: u32, rows: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> packed: array<u32>;
@group(0) @binding(2) var<storage, read_write> scales: array<f32>;

const LANES = 64u;
// Exponents as f32 stores them, with 127 added.
const NOT_FINITE = 255u;
// The largest magnitude of a row gets this one: 2^14.
const LARGEST = 141u;

var<workgroup> largest: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let row = group.y * groups.x + group.x;
  if (row >= params.rows) { return; }
  let start = params.a_offset + row * params.lda;
  // Magnitudes compare as their bits do; so compared, infinity and NaN are the largest on every adapter.
  var most = 0u;
  for (var k = lane; k < params.width; k += LANES) { most = max(most, bitcast<u32>(a[start + k]) & 0x7fffffffu); }
  largest[lane] = most;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) { largest[lane] = max(largest[lane], largest[lane + half]); }
    workgroupBarrier();
  }
  let exponent = largest[0] >> 23u;
  // Both 2^e and its inverse stay normal numbers.
  let bounded = clamp(exponent, LARGEST - 126u, NOT_FINITE - 1u);
  let inverse = bitcast<f32>((127u + LARGEST - bounded) << 23u);
  if (lane == 0u) {
    // Not a constant expression: those may not be NaN.
    let nan = exponent | 0x7fc00000u;
    scales[row] = bitcast<f32>(select((bounded + 127u - LARGEST) << 23u, nan, exponent == NOT_FINITE));
  }
  for (var word = lane; word < params.words; word += LANES) {
    let k = 2u * word;
    var pair = vec2f();
    if (k < params.width) { pair.x = a[start + k] * inverse; }
    if (k + 1u < params.width) { pair.y = a[start + k + 1u] * inverse; }
    packed[row * params.words + word] = pack2x16float(pair);
  }
}
