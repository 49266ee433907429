// product_naive: C[m, n] = sum_k A(m, k) * B(k, n): the first rung of the products' ladder, against which the others
// are measured and tested.
//
// Shapes: A(m, k) is element m * a_row + k * a_step of a; B(k, n) is element k * b_row + n * b_step of b; C [M, N].
// Who calls it: ops/product-naive.ts (bench/ladder.js and tests; nothing that trains).
// Tiling: none. A lane makes one element of C and reads a row of A and a column of B for it by itself.
requires immediate_address_space;

struct Params { m: u32, n: u32, k: u32, a_row: u32, a_step: u32, b_row: u32, b_step: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;

@compute @workgroup_size(16, 16)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.n || id.y >= params.m) { return; }
  var sum = 0.0;
  for (var k = 0u; k < params.k; k++) {
    sum = fma(a[id.y * params.a_row + k * params.a_step], b[k * params.b_row + id.x * params.b_step], sum);
  }
  c[id.y * params.n + id.x] = sum;
}
