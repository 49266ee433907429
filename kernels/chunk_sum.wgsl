// chunk_sum: out[out_offset + g] = sum_i x[i], or of x[i]^2 when SQUARED, over the chunk i in [g * chunk, (g + 1) * chunk);
// its square root when ROOT.
// Shapes: x [count], out one value a workgroup.
// Who calls it: ops/reduce.ts: sum, sumSquares and norm, in two stages: chunks first, then the sum of their sums.
// Tiling: a workgroup of 64 lanes takes one chunk, neighbouring lanes read neighbouring elements, and after the only
// barrier the first lane adds the 64 partial sums in order.
requires immediate_address_space;

override SQUARED: bool = false;
override ROOT: bool = false;

struct Params { count: u32, chunk: u32, out_offset: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

var<workgroup> partials: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * params.chunk;
  let end = min(first + params.chunk, params.count);
  var sum = 0.0;
  for (var i = first + lane; i < end; i += 64u) {
    let value = x[i];
    sum += select(value, value * value, SQUARED);
  }
  partials[lane] = sum;
  workgroupBarrier();
  if (lane == 0u) {
    var total = 0.0;
    for (var i = 0u; i < 64u; i++) { total += partials[i]; }
    out[params.out_offset + group.x] = select(total, sqrt(total), ROOT);
  }
}
