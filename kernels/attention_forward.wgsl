// attention_forward: o = softmax(scale q k^T) v and its natural log-sum-exp, per query row and head, scores never
// written to memory.
//
//   s_j = scale q . k_j ; m = max s_j ; l = sum exp(s_j - m) ; o = sum exp(s_j - m) v_j / l ; lse = m + log l
//
// Shapes: q [T, heads x HEAD_SIZE]; k, v [N, keyValueHeads x HEAD_SIZE], each a range of columns of a row-major tensor
// (offset and stride in vec4, so that the three may lie in one fused tensor); o [T, heads x HEAD_SIZE]; lse [T, heads].
// plan: one vec4u a workgroup: first query row, end of the sequence's query rows, first key row, end of the key rows.
// CAUSAL: query row r reads the keys up to row r (queries and keys are the same packed rows).
// Who calls it: ops/attention.ts and ops/cross-attention.ts, which differ in the plan only.
// Tiling: one lane a query row, with q and the output sums in registers; LANES rows of one head a workgroup; keys in
// tiles of KEYS with an online softmax (m and l grow, o is rescaled once a tile). Tiles above the diagonal are never
// visited. No barriers and no workgroup memory: all lanes of a workgroup read the same key, which GPUs broadcast from
// their cache. The twin for software adapters is attention_shared_forward.
requires immediate_address_space;

const HEAD_SIZE = 64u;
const KEYS = 4u;
const LANES = 32u;
override CAUSAL: bool = true;

struct Params {
  blocks: u32, count: u32, heads: u32, group: u32,
  q_offset: u32, q_stride: u32, k_offset: u32, k_stride: u32, v_offset: u32, v_stride: u32,
  scale: f32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read> plan: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

const WIDTH = HEAD_SIZE / 4u;
// Low enough to vanish in any softmax, and finite, so that no infinity meets another.
const NOTHING = -1e30;
const LOG2_E = 1.4426950408889634;
const LN_2 = 0.6931471805599453;

fn dot4(a: vec4f, b: vec4f, sum: f32) -> f32 {
  return fma(a.x, b.x, fma(a.y, b.y, fma(a.z, b.z, fma(a.w, b.w, sum))));
}

fn add4(p: f32, a: vec4f, sum: vec4f) -> vec4f {
  return vec4f(fma(p, a.x, sum.x), fma(p, a.y, sum.y), fma(p, a.z, sum.z), fma(p, a.w, sum.w));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let index = id.y * grid.x + id.x;
  if (index >= params.count) { return; }
  let work = plan[index % params.blocks];
  let head = index / params.blocks;
  let end = work.w;
  // Lanes past the sequence repeat its last row and write nothing, so that control flow stays uniform.
  let row = min(work.x + lane, work.y - 1u);
  let q_at = params.q_offset + row * params.q_stride + head * WIDTH;
  let k_at = params.k_offset + (head / params.group) * WIDTH;
  let v_at = params.v_offset + (head / params.group) * WIDTH;
  var qs: array<vec4f, WIDTH>;
  var sums: array<vec4f, WIDTH>;
  // Scores in units of log 2: exp2 is what the hardware has.
  for (var d = 0u; d < WIDTH; d++) { qs[d] = q[q_at + d] * (params.scale * LOG2_E); }
  var m = NOTHING;
  var l = 0.0;
  let stop = select(end, min(end, work.x + LANES), CAUSAL);
  let visible = select(end, row + 1u, CAUSAL);
  for (var key = work.z; key < stop; key += KEYS) {
    var s = array<f32, KEYS>();
    for (var d = 0u; d < WIDTH; d++) {
      let x = qs[d];
      for (var j = 0u; j < KEYS; j++) {
        s[j] = dot4(x, k[k_at + min(key + j, end - 1u) * params.k_stride + d], s[j]);
      }
    }
    var top = m;
    for (var j = 0u; j < KEYS; j++) {
      s[j] = select(NOTHING, s[j], key + j < visible);
      top = max(top, s[j]);
    }
    let shrink = exp2(m - top);
    m = top;
    l *= shrink;
    for (var j = 0u; j < KEYS; j++) {
      s[j] = exp2(s[j] - m);
      l += s[j];
    }
    for (var d = 0u; d < WIDTH; d++) {
      var sum = sums[d] * shrink;
      for (var j = 0u; j < KEYS; j++) {
        sum = add4(s[j], v[v_at + min(key + j, end - 1u) * params.v_stride + d], sum);
      }
      sums[d] = sum;
    }
  }
  if (work.x + lane < work.y) {
    let o_at = (row * params.heads + head) * WIDTH;
    for (var d = 0u; d < WIDTH; d++) { o[o_at + d] = sums[d] / l; }
    lse[row * params.heads + head] = (m + log2(l)) * LN_2;
  }
}
