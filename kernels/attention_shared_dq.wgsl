// attention_shared_dq: attention_dq for software adapters; same formula, shapes and plan.
//
//   P_j = exp(scale q . k_j - lse) ; dS_j = P_j (do . v_j - D) ; dq = scale sum_j dS_j k_j
//
// Who calls it: ops/attend.ts, when all subgroups of the adapter have the same known size.
// Tiling: see attention_shared_forward; dq accumulates in its own rows.
enable subgroups;
requires immediate_address_space;

const KEYS = 1u;
const LANES = 32u;

struct Params {
  blocks: u32, count: u32, heads: u32, group: u32,
  q_offset: u32, q_stride: u32, k_offset: u32, k_stride: u32, v_offset: u32, v_stride: u32,
  dq_offset: u32, dq_stride: u32, head_size: u32, causal: u32, scale: f32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(4) var<storage, read> stats: array<vec2f>;
@group(0) @binding(5) var<storage, read> plan: array<vec4u>;
@group(0) @binding(6) var<storage, read_write> dq: array<vec4f>;

const LOG2_E = 1.4426950408889634;

fn dot4(a: vec4f, b: vec4f, sum: f32) -> f32 {
  return fma(a.x, b.x, fma(a.y, b.y, fma(a.z, b.z, fma(a.w, b.w, sum))));
}

fn add4(p: f32, a: vec4f, sum: vec4f) -> vec4f {
  return vec4f(fma(p, a.x, sum.x), fma(p, a.y, sum.y), fma(p, a.z, sum.z), fma(p, a.w, sum.w));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(subgroup_invocation_id) member: u32, @builtin(local_invocation_index) lane: u32) {
  let index = id.y * grid.x + id.x;
  if (index >= params.count) { return; }
  let work = plan[index % params.blocks];
  let head = index / params.blocks;
  let width = params.head_size / 4u;
  let end = work.w;
  let row = min(work.x + lane, work.y - 1u);
  let live = work.x + lane < work.y;
  let at = row * params.heads + head;
  let q_at = params.q_offset + row * params.q_stride + head * width;
  let k_at = params.k_offset + (head / params.group) * width;
  let v_at = params.v_offset + (head / params.group) * width;
  let dq_at = params.dq_offset + row * params.dq_stride + head * width;
  let stat = stats[at];
  let scale = params.scale * LOG2_E;
  let causal = params.causal == 1u;
  let stop = select(end, min(end, work.x + LANES), causal);
  let visible = select(end, row + 1u, causal);
  for (var key = work.z; key < stop; key += KEYS) {
    var s = array<f32, KEYS>();
    var dp = array<f32, KEYS>();
    let own_key = min(key + member % KEYS, end - 1u);
    for (var d = 0u; d < width; d++) {
      let x = q[q_at + d];
      let y = d_out[at * width + d];
      let own_k = k[k_at + own_key * params.k_stride + d];
      let own_v = v[v_at + own_key * params.v_stride + d];
      s[0] = dot4(x, subgroupBroadcast(own_k, 0u), s[0]); // each lane
      dp[0] = dot4(y, subgroupBroadcast(own_v, 0u), dp[0]); // each lane
    }
    for (var j = 0u; j < KEYS; j++) {
      let p = exp2(s[j] * scale - stat.x);
      s[j] = select(0.0, p * (dp[j] - stat.y) * params.scale, key + j < visible);
    }
    for (var d = 0u; d < width; d++) {
      var sum = vec4f();
      if (live && key > work.z) { sum = dq[dq_at + d]; }
      let own = k[k_at + own_key * params.k_stride + d];
      sum = add4(s[0], subgroupBroadcast(own, 0u), sum); // each lane
      if (live) { dq[dq_at + d] = sum; }
    }
  }
}
