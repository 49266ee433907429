// attention_dq: the query gradient of attention, probabilities recomputed from the log-sum-exp.
//
//   P_j = exp(scale q . k_j - lse) ; dS_j = P_j (do . v_j - D) ; dq = scale sum_j dS_j k_j
//
// Shapes: q, k, v, plan as in attention_forward; d_out [T, heads x HEAD_SIZE]; stats [T, heads] pairs (lse log2(e), D)
// from attention_delta; dq like q, with its own offset and stride.
// Who calls it: ops/attention.ts and ops/cross-attention.ts.
// Tiling: as attention_forward: one lane a query row, q, do and dq in registers, keys in tiles of KEYS, no barriers.
requires immediate_address_space;

const HEAD_SIZE = 64u;
const KEYS = 4u;
const LANES = 32u;
override CAUSAL: bool = true;

struct Params {
  blocks: u32, count: u32, heads: u32, group: u32,
  q_offset: u32, q_stride: u32, k_offset: u32, k_stride: u32, v_offset: u32, v_stride: u32,
  dq_offset: u32, dq_stride: u32, scale: f32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(4) var<storage, read> stats: array<vec2f>;
@group(0) @binding(5) var<storage, read> plan: array<vec4u>;
@group(0) @binding(6) var<storage, read_write> dq: array<vec4f>;

const WIDTH = HEAD_SIZE / 4u;
const LOG2_E = 1.4426950408889634;

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
  let row = min(work.x + lane, work.y - 1u);
  let at = row * params.heads + head;
  let q_at = params.q_offset + row * params.q_stride + head * WIDTH;
  let k_at = params.k_offset + (head / params.group) * WIDTH;
  let v_at = params.v_offset + (head / params.group) * WIDTH;
  var qs: array<vec4f, WIDTH>;
  var dos: array<vec4f, WIDTH>;
  var sums: array<vec4f, WIDTH>;
  for (var d = 0u; d < WIDTH; d++) {
    qs[d] = q[q_at + d] * (params.scale * LOG2_E);
    dos[d] = d_out[at * WIDTH + d];
  }
  let stat = stats[at];
  let stop = select(end, min(end, work.x + LANES), CAUSAL);
  let visible = select(end, row + 1u, CAUSAL);
  for (var key = work.z; key < stop; key += KEYS) {
    var s = array<f32, KEYS>();
    var dp = array<f32, KEYS>();
    for (var d = 0u; d < WIDTH; d++) {
      let x = qs[d];
      let y = dos[d];
      for (var j = 0u; j < KEYS; j++) {
        let a_key = min(key + j, end - 1u);
        s[j] = dot4(x, k[k_at + a_key * params.k_stride + d], s[j]);
        dp[j] = dot4(y, v[v_at + a_key * params.v_stride + d], dp[j]);
      }
    }
    for (var j = 0u; j < KEYS; j++) {
      s[j] = select(0.0, exp2(s[j] - stat.x) * (dp[j] - stat.y), key + j < visible);
    }
    for (var d = 0u; d < WIDTH; d++) {
      var sum = sums[d];
      for (var j = 0u; j < KEYS; j++) {
        sum = add4(s[j], k[k_at + min(key + j, end - 1u) * params.k_stride + d], sum);
      }
      sums[d] = sum;
    }
  }
  if (work.x + lane < work.y) {
    let dq_at = params.dq_offset + row * params.dq_stride + head * WIDTH;
    for (var d = 0u; d < WIDTH; d++) { dq[dq_at + d] = sums[d] * params.scale; }
  }
}
