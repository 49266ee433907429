// attention_dkv: the key and value gradients of attention, probabilities recomputed from the log-sum-exp.
//
//   P_i = exp(scale q_i . k - lse_i) ; dv = sum_i P_i do_i ; dS_i = P_i (do_i . v - D_i) ; dk = scale sum_i dS_i q_i
//
// The sums run over the query rows that read this key, over the heads of its group in order, then over its ranges of
// query rows in order: no atomics, and the same bits every time.
// Shapes: q, k, v as in attention_forward; d_out [T, heads x HEAD_SIZE]; stats [T, heads] pairs (lse log2(e), D) from
// attention_delta; dk, dv like k, v, with their own offset and stride; in one tensor when SHARED (then only dk is
// written, since a buffer cannot be bound for writing twice).
// plan: one vec4u a workgroup: first key row, end of the key rows, first range, end of the ranges; from params.ranges
// on, one vec4u a range: first query row, end of the query rows. Keys nobody reads have no range: their gradient is 0.
// Who calls it: ops/attention.ts (one range a sequence) and ops/cross-attention.ts (one a query sequence of the user).
// Tiling: one lane a key row, with k, v, dk, dv in registers; LANES keys of one key/value head a workgroup; query rows
// in tiles of KEYS. Causal: tiles of queries before the first key are never visited. No barriers.
requires immediate_address_space;

const HEAD_SIZE = 64u;
const KEYS = 4u;
const LANES = 32u;
override CAUSAL: bool = true;
override SHARED: bool = false;

struct Params {
  blocks: u32, count: u32, heads: u32, group: u32,
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
  let kv_head = index / params.blocks;
  let key = min(work.x + lane, work.y - 1u);
  let k_at = params.k_offset + key * params.k_stride + kv_head * WIDTH;
  let v_at = params.v_offset + key * params.v_stride + kv_head * WIDTH;
  var ks: array<vec4f, WIDTH>;
  var vs: array<vec4f, WIDTH>;
  var dks: array<vec4f, WIDTH>;
  var dvs: array<vec4f, WIDTH>;
  for (var d = 0u; d < WIDTH; d++) {
    ks[d] = k[k_at + d] * (params.scale * LOG2_E);
    vs[d] = v[v_at + d];
  }
  for (var head = kv_head * params.group; head < (kv_head + 1u) * params.group; head++) {
    let q_at = params.q_offset + head * WIDTH;
    for (var range = work.z; range < work.w; range++) {
      let rows = plan[params.ranges + range];
      let end = rows.y;
      let start = select(rows.x, max(rows.x, work.x), CAUSAL);
      for (var row = start; row < end; row += KEYS) {
        var s = array<f32, KEYS>();
        var dp = array<f32, KEYS>();
        for (var d = 0u; d < WIDTH; d++) {
          let x = ks[d];
          let y = vs[d];
          for (var j = 0u; j < KEYS; j++) {
            let a_row = min(row + j, end - 1u);
            s[j] = dot4(x, q[q_at + a_row * params.q_stride + d], s[j]);
            dp[j] = dot4(y, d_out[(a_row * params.heads + head) * WIDTH + d], dp[j]);
          }
        }
        var stat: array<vec2f, KEYS>;
        for (var j = 0u; j < KEYS; j++) {
          stat[j] = stats[min(row + j, end - 1u) * params.heads + head];
        }
        for (var j = 0u; j < KEYS; j++) {
          let seen = row + j < end && (!CAUSAL || row + j >= key);
          s[j] = select(0.0, exp2(s[j] - stat[j].x), seen);
          dp[j] = s[j] * (dp[j] - stat[j].y);
        }
        for (var d = 0u; d < WIDTH; d++) {
          var dk_sum = dks[d];
          var dv_sum = dvs[d];
          for (var j = 0u; j < KEYS; j++) {
            let a_row = min(row + j, end - 1u);
            dk_sum = add4(dp[j], q[q_at + a_row * params.q_stride + d], dk_sum);
            dv_sum = add4(s[j], d_out[(a_row * params.heads + head) * WIDTH + d], dv_sum);
          }
          dks[d] = dk_sum;
          dvs[d] = dv_sum;
        }
      }
    }
  }
  if (work.x + lane < work.y) {
    let dk_at = params.dk_offset + key * params.dk_stride + kv_head * WIDTH;
    let dv_at = params.dv_offset + key * params.dv_stride + kv_head * WIDTH;
    for (var d = 0u; d < WIDTH; d++) { dk[dk_at + d] = dks[d] * params.scale; }
    for (var d = 0u; d < WIDTH; d++) {
      if (SHARED) { dk[dv_at + d] = dvs[d]; } else { dv[dv_at + d] = dvs[d]; }
    }
  }
}
