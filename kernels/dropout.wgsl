// dropout: y[i] = x[i] * scale where a random u32 r[i] >= threshold, else 0;  threshold = p 2^32, scale = 1 / (1 - p).
// r comes from Philox4x32-10 (Salmon et al. 2011): four numbers from a 128-bit counter and a 64-bit key, without state.
//   key = seed,  counter = (i / 4, step, site, 0),  element i takes number i % 4.
// The same seed, step and site give the same mask: the gradient is the same call on dy, and nothing is stored.
// Shapes: x, y [count].
// Who calls it: ops/dropout.ts, dropout.
// Tiling: one lane for four elements, which share one run of the generator.
requires immediate_address_space;

struct Params { count: u32, threshold: u32, scale: f32, seed_low: u32, seed_high: u32, step: u32, site: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

// The high word of the 64-bit product, from 16-bit halves: WGSL has no wider product.
fn high_product(a: u32, b: u32) -> u32 {
  let a_low = a & 0xffffu;
  let a_high = a >> 16u;
  let b_low = b & 0xffffu;
  let b_high = b >> 16u;
  let first = a_high * b_low + ((a_low * b_low) >> 16u);
  let second = a_low * b_high + (first & 0xffffu);
  return a_high * b_high + (first >> 16u) + (second >> 16u);
}

fn philox(counter: vec4u, seed: vec2u) -> vec4u {
  var c = counter;
  var key = seed;
  for (var round = 0u; round < 10u; round++) {
    c = vec4u(
      high_product(0xcd9e8d57u, c.z) ^ c.y ^ key.x,
      0xcd9e8d57u * c.z,
      high_product(0xd2511f53u, c.x) ^ c.w ^ key.y,
      0xd2511f53u * c.x
    );
    key += vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let quad = (group.y * grid.x + group.x) * 64u + lane;
  let first = 4u * quad;
  if (first >= params.count) { return; }
  let random = philox(vec4u(quad, params.step, params.site, 0u), vec2u(params.seed_low, params.seed_high));
  for (var j = 0u; j < 4u; j++) {
    if (first + j < params.count) {
      y[first + j] = select(0.0, x[first + j] * params.scale, random[j] >= params.threshold);
    }
  }
}
