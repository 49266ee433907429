// attention_matrix_delta: what the backward kernels of attention on tensor cores need of a query row and head,
//
//   stats[t, i] = (lse[t, i] log2(e), D[t, i], max |do|, 0)   with   D = rowsum(do * o)
//
// as attention_delta.wgsl, and the largest magnitude of do, by which its f16 are scaled.
// Shapes: do, o [T, heads x head_size]; lse [T, heads]; stats [T, heads] groups of four; count = T x heads.
// Who calls it: ops/attend-matrix.ts, before attention_matrix_dq and attention_matrix_dkv.
// Tiling: one lane a row and head; reads 2 head_size floats and writes 4, so it is bound by memory.
requires immediate_address_space;

struct Params { count: u32, head_size: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(1) var<storage, read> o: array<vec4f>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> stats: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let at = (id.y * grid.x + id.x) * 64u + lane;
  if (at >= params.count) { return; }
  let width = params.head_size / 4u;
  var sum = 0.0;
  var peak = vec4f(0.0);
  for (var d = 0u; d < width; d++) {
    let a = d_out[at * width + d];
    let b = o[at * width + d];
    sum = fma(a.x, b.x, fma(a.y, b.y, fma(a.z, b.z, fma(a.w, b.w, sum))));
    peak = max(peak, abs(a));
  }
  stats[at] = vec4f(lse[at] * 1.4426950408889634, sum, max(max(peak.x, peak.y), max(peak.z, peak.w)), 0.0);
}
