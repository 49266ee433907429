// attention_shared_dkv: attention_dkv for software adapters; same formula, shapes and plan.
//
//   P_i = exp(scale q_i . k - lse_i) ; dv = sum_i P_i do_i ; dS_i = P_i (do_i . v - D_i) ; dk = scale sum_i dS_i q_i
//
// Who calls it: ops/attend.ts, when all subgroups of the adapter have the same known size.
// Tiling: see attention_shared_forward, with the roles of queries and keys exchanged: each lane owns a key row and
// loads one query row of a tile; dk and dv accumulate in their own rows. Immediates hold 64 bytes: the head size and
// causality share one scalar, 2 x head size + causal.
enable subgroups;
requires immediate_address_space;

const KEYS = 1u;
const LANES = 32u;
override SHARED: bool = false;

struct Params {
  blocks: u32, heads: u32, group: u32, head_size_causal: u32,
  q_offset: u32, q_stride: u32, k_offset: u32, k_stride: u32, v_offset: u32, v_stride: u32,
  dk_offset: u32, dk_stride: u32, dv_offset: u32, dv_stride: u32, ranges: u32, scale: f32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(4) var<storage, read> stats: array<vec2f>;
@group(0) @binding(5) var<storage, read> plan: array<vec4u>;
@group(0) @binding(6) var<storage, read_write> dk: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> dv: array<vec4f>;

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
  let width = params.head_size_causal / 8u;
  let causal = params.head_size_causal % 2u == 1u;
  let kv_head = index / params.blocks;
  if (kv_head * params.group >= params.heads) { return; }
  let work = plan[index % params.blocks];
  let key = min(work.x + lane, work.y - 1u);
  let live = work.x + lane < work.y;
  let k_at = params.k_offset + key * params.k_stride + kv_head * width;
  let v_at = params.v_offset + key * params.v_stride + kv_head * width;
  let dk_at = params.dk_offset + key * params.dk_stride + kv_head * width;
  let dv_at = params.dv_offset + key * params.dv_stride + kv_head * width;
  let scale = params.scale * LOG2_E;
  if (live) {
    for (var d = 0u; d < width; d++) {
      dk[dk_at + d] = vec4f();
      if (SHARED) { dk[dv_at + d] = vec4f(); } else { dv[dv_at + d] = vec4f(); }
    }
  }
  for (var head = kv_head * params.group; head < (kv_head + 1u) * params.group; head++) {
    let q_at = params.q_offset + head * width;
    for (var range = work.z; range < work.w; range++) {
      let rows = plan[params.ranges + range];
      let end = rows.y;
      let start = select(rows.x, max(rows.x, work.x), causal);
      for (var row = start; row < end; row += KEYS) {
        var s = array<f32, KEYS>();
        var dp = array<f32, KEYS>();
        let own_row = min(row + member % KEYS, end - 1u);
        let own_at = own_row * params.heads + head;
        for (var d = 0u; d < width; d++) {
          let x = k[k_at + d];
          let y = v[v_at + d];
          let own_q = q[q_at + own_row * params.q_stride + d];
          let own_do = d_out[own_at * width + d];
          s[0] = dot4(x, subgroupBroadcast(own_q, 0u), s[0]); // each lane
          dp[0] = dot4(y, subgroupBroadcast(own_do, 0u), dp[0]); // each lane
        }
        let own_stat = stats[own_at];
        var stat = array<vec2f, KEYS>();
        stat[0] = subgroupBroadcast(own_stat, 0u); // each lane
        for (var j = 0u; j < KEYS; j++) {
          let seen = row + j < end && (!causal || row + j >= key);
          s[j] = select(0.0, exp2(s[j] * scale - stat[j].x), seen);
          dp[j] = s[j] * (dp[j] - stat[j].y) * params.scale;
        }
        for (var d = 0u; d < width; d++) {
          var dk_sum = vec4f();
          var dv_sum = vec4f();
          if (live) {
            dk_sum = dk[dk_at + d];
            if (SHARED) { dv_sum = dk[dv_at + d]; } else { dv_sum = dv[dv_at + d]; }
          }
          let own_q = q[q_at + own_row * params.q_stride + d];
          let own_do = d_out[own_at * width + d];
          dk_sum = add4(dp[0], subgroupBroadcast(own_q, 0u), dk_sum); // each lane
          dv_sum = add4(s[0], subgroupBroadcast(own_do, 0u), dv_sum); // each lane
          if (live) {
            dk[dk_at + d] = dk_sum;
            if (SHARED) { dk[dv_at + d] = dv_sum; } else { dv[dv_at + d] = dv_sum; }
          }
        }
      }
    }
  }
}
