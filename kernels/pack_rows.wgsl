// pack_rows: the rows of a product's left operand as f16, each with a power of two of its own, for tensor cores.
//   packed[m, k] = f16(x[m, k] / 2^e)     scales[m] = 2^e     2^14 <= max_k |x[m, k]| / 2^e < 2^15
// x is what the layer before the product would have written, made here instead; FORM says which:
//   PLAIN            x[m, k] = a[m, k]
//   RMS_NORM         a[m, k] * rstd[m] * b[k]                     rstd[m] = 1 / sqrt(1/K sum_k a[m, k]^2 + eps)
//   LAYER_NORM       (a[m, k] - mean[m]) * rstd[m] * b[k] + bias[k]        as layer_norm_forward.wgsl
//   SWIGLU           silu(a[m, k]) * a[m, K + k]                  a is gate | up, as swiglu.wgsl
//   GELU             a[m, k] * Phi(a[m, k])                       with tanh, as gelu.wgsl
//   SWIGLU_GRADIENT, GELU_GRADIENT   the gradient at a, b being that at the result (swiglu_gradient.wgsl, gelu_gradient.wgsl)
//   TURNED_BACK      R_m^-1 a[m, k] in the heads of the first turned_width elements, b being angles: rope.wgsl, INVERSE
// Shapes: a has rows of lda elements, from element a_offset on; x is [rows, width]; packed [rows, words] u32, two f16 to a
// word, the first in the lower half, zero past `width`, words a multiple of 16; scales [rows]. b and bias are [width], or b
// is a gradient [R, width or width / 2], or angles [R, pairs, 2]; mean and rstd are [R], kept for the norms' gradients. These rows are those from
// `first` on of the R.
// Who calls it: ops/product-matrix.ts, for the left operand of kernels/product_matrix.wgsl.
// Why powers of two: scaling by them is exact, so an element has the 11 bits that f16 gives, whatever the magnitude of
// its row. Gradients of 1e-9 and activations of 1e6 neither vanish nor overflow, and no loss needs scaling. An element
// 2^29 times smaller than the largest of its row is lost, as it would be in the f32 sum of a product.
// A row that holds NaN or infinity gets the scale NaN, so that its products are NaN, not a number that looks right.
// Tiling: a workgroup of 64 lanes takes a row, once for each sum of a norm, once for its largest magnitude, once to write
// it: x is made twice, which costs less than writing and reading it.
requires immediate_address_space;

const PLAIN = 0u;
const RMS_NORM = 1u;
const LAYER_NORM = 2u;
const SWIGLU = 3u;
const GELU = 4u;
const SWIGLU_GRADIENT = 5u;
const GELU_GRADIENT = 6u;
const TURNED_BACK = 7u;
override FORM: u32 = 0;
override INTERLEAVED: bool = false;

struct Params {
  width: u32, lda: u32, a_offset: u32, words: u32, rows: u32, first: u32, eps: f32,
  turned_width: u32, head_size: u32, pairs: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> packed: array<u32>;
@group(0) @binding(4) var<storage, read_write> scales: array<f32>;
@group(0) @binding(5) var<storage, read_write> mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;

const LANES = 64u;
// Exponents as f32 stores them, with 127 added.
const NOT_FINITE = 255u;
// The largest magnitude of a row gets this one: 2^14.
const LARGEST = 141u;

var<workgroup> partials: array<f32, LANES>;
var<workgroup> largest: array<u32, LANES>;

// The sum of `value` over the lanes, for each of them.
fn row_sum(value: f32, lane: u32) -> f32 {
  partials[lane] = value;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) { partials[lane] += partials[lane + half]; }
    workgroupBarrier();
  }
  let sum = partials[0];
  workgroupBarrier();
  return sum;
}

// min: exp must not overflow; the quotient is zero to rounding long before.
fn logistic(x: f32) -> f32 { return 1.0 / (1.0 + exp(min(-x, 87.0))); }

// gelu.wgsl explains it; (phi, bounded x).
fn tanh_distribution(x: f32) -> vec2f {
  let bounded = clamp(x, -30.0, 30.0);
  let u = 0.79788456 * (bounded + 0.044715 * bounded * bounded * bounded);
  return vec2f(1.0 / (1.0 + exp(clamp(-2.0 * u, -87.0, 87.0))), bounded);
}

// Element k of x in the row that starts at a[start] and has these statistics.
fn element(row: u32, start: u32, k: u32, average: f32, scale: f32) -> f32 {
  if (FORM == RMS_NORM) { return a[start + k] * scale * b[k]; }
  if (FORM == LAYER_NORM) { return (a[start + k] - average) * scale * b[k] + bias[k]; }
  if (FORM == SWIGLU) {
    let gate = a[start + k];
    return gate * logistic(gate) * a[start + params.width + k];
  }
  if (FORM == GELU) { return a[start + k] * tanh_distribution(a[start + k]).x; }
  if (FORM == SWIGLU_GRADIENT) {
    let width = params.width / 2u;
    let j = k % width;
    let gate = a[start + j];
    let s = logistic(gate);
    let gradient = b[(params.first + row) * width + j];
    return gradient * select(gate * s, a[start + width + j] * s * (1.0 + gate * (1.0 - s)), k < width);
  }
  if (FORM == GELU_GRADIENT) {
    let x = tanh_distribution(a[start + k]);
    let slope = x.x + x.y * x.x * (1.0 - x.x) * 1.59576912 * (1.0 + 0.134145 * x.y * x.y);
    return b[(params.first + row) * params.width + k] * slope;
  }
  if (FORM == TURNED_BACK) {
    let d = k % params.head_size;
    if (k >= params.turned_width || d >= 2u * params.pairs) { return a[start + k]; }
    let pair = select(d % params.pairs, d / 2u, INTERLEAVED);
    let first = select(d < params.pairs, d % 2u == 0u, INTERLEAVED);
    let distance = select(params.pairs, 1u, INTERLEAVED);
    let partner = a[select(start + k - distance, start + k + distance, first)];
    let at = 2u * ((params.first + row) * params.pairs + pair);
    return a[start + k] * b[at] + partner * select(-b[at + 1u], b[at + 1u], first);
  }
  return a[start + k];
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let row = group.y * groups.x + group.x;
  if (row >= params.rows) { return; }
  let start = params.a_offset + row * params.lda;
  var average = 0.0;
  var scale = 0.0;
  if (FORM == RMS_NORM || FORM == LAYER_NORM) {
    let size = f32(params.width);
    if (FORM == LAYER_NORM) {
      var sum = 0.0;
      for (var k = lane; k < params.width; k += LANES) { sum += a[start + k]; }
      average = row_sum(sum, lane) / size;
    }
    var squares = 0.0;
    for (var k = lane; k < params.width; k += LANES) {
      let centred = a[start + k] - average;
      squares += centred * centred;
    }
    scale = 1.0 / sqrt(row_sum(squares, lane) / size + params.eps);
    if (lane == 0u) {
      if (FORM == LAYER_NORM) { mean[params.first + row] = average; }
      rstd[params.first + row] = scale;
    }
  }
  // Magnitudes compare as their bits do; so compared, infinity and NaN are the largest on every adapter.
  var most = 0u;
  for (var k = lane; k < params.width; k += LANES) {
    most = max(most, bitcast<u32>(element(row, start, k, average, scale)) & 0x7fffffffu);
  }
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
    if (k < params.width) { pair.x = element(row, start, k, average, scale) * inverse; }
    if (k + 1u < params.width) { pair.y = element(row, start, k + 1u, average, scale) * inverse; }
    packed[row * params.words + word] = pack2x16float(pair);
  }
}
