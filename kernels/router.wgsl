// router: p[n] = softmax over the experts of C[n] W_r^T, per position; w[b] = mean of p over the user's positions (Eq. 4);
// top[b] = the k experts of the largest w, ties to the lower index; argmax_counts[b, j] = positions whose largest logit
// is expert j's, ties to the lower index.
// Shapes: c [N, width], weight W_r [K, width], K <= 64; cu_seqlens u32 [batch + 1]; p [N, K]; w, argmax_counts (u32)
// [batch, K]; top u32 [batch, k].
// Who calls it: router in ops/router.ts.
// Tiling: a workgroup of 64 lanes a user, no subgroups. The lanes take the user's (position, expert) pairs for the logits,
// then positions for the softmax, then experts for mean and rank: three barriers for any length. An expert's place in the
// top list is the number of experts that beat it, so no rounds of selection are needed.
requires immediate_address_space;

struct Params { batch: u32, width: u32, experts: u32, chosen: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> c: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> cu_seqlens: array<u32>;
@group(0) @binding(3) var<storage, read_write> p: array<f32>;
@group(0) @binding(4) var<storage, read_write> w: array<f32>;
@group(0) @binding(5) var<storage, read_write> top: array<u32>;
@group(0) @binding(6) var<storage, read_write> argmax_counts: array<u32>;

const LANES = 64u;
var<workgroup> means: array<f32, 64>;
var<workgroup> counts: array<atomic<u32>, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) index: u32) {
  let user = wid.x;
  let experts = params.experts;
  let first = cu_seqlens[user];
  let end = cu_seqlens[user + 1u];
  for (var i = first * experts + index; i < end * experts; i += LANES) {
    let position = i / experts;
    let expert = i % experts;
    var logit = 0.0;
    for (var k = 0u; k < params.width; k++) {
      logit = fma(c[position * params.width + k], weight[expert * params.width + k], logit);
    }
    p[i] = logit;
  }
  atomicStore(&counts[index], 0u);
  storageBarrier();
  workgroupBarrier();
  for (var position = first + index; position < end; position += LANES) {
    let base = position * experts;
    var most = p[base];
    var winner = 0u;
    for (var j = 1u; j < experts; j++) {
      if (p[base + j] > most) {
        most = p[base + j];
        winner = j;
      }
    }
    atomicAdd(&counts[winner], 1u);
    var sum = 0.0;
    for (var j = 0u; j < experts; j++) {
      let e = exp(p[base + j] - most);
      p[base + j] = e;
      sum += e;
    }
    for (var j = 0u; j < experts; j++) { p[base + j] /= sum; }
  }
  storageBarrier();
  workgroupBarrier();
  if (index < experts) {
    var sum = 0.0;
    for (var position = first; position < end; position++) { sum += p[position * experts + index]; }
    let mean = sum / f32(end - first);
    means[index] = mean;
    w[user * experts + index] = mean;
    argmax_counts[user * experts + index] = atomicLoad(&counts[index]);
  }
  workgroupBarrier();
  if (index < experts) {
    let own = means[index];
    var place = 0u;
    for (var j = 0u; j < experts; j++) {
      if (means[j] > own || (means[j] == own && j < index)) { place++; }
    }
    if (place < params.chosen) { top[user * params.chosen + place] = index; }
  }
}
