// attention_shared_forward: attention_forward for software adapters; same formula, shapes and plan.
//
//   s_j = scale q . k_j ; m = max s_j ; l = sum exp(s_j - m) ; o = sum exp(s_j - m) v_j / l ; lse = m + log l
//
// Who calls it: ops/attend.ts, when all subgroups of the adapter have the same known size.
// Tiling: a software adapter loads for its lanes one by one, whether or not they read the same address, so a load is
// worth some fifty vector instructions, and every load in the text costs seconds of compilation. Therefore each lane
// loads its own key (or value) of a tile of KEYS, and the subgroup shares them by broadcasts in registers: 8 vec4 loads
// in the whole text, KEYS x KEYS scores from two loads. The output row accumulates in o itself. The head size and
// causality are scalars, so that one program serves all. Lines marked "each lane" are repeated KEYS times
// (src/gpu/variant.ts). No barriers and no workgroup memory.
enable subgroups;
requires immediate_address_space;

const KEYS = 1u;
const LANES = 32u;

struct Params {
  blocks: u32, count: u32, heads: u32, group: u32,
  q_offset: u32, q_stride: u32, k_offset: u32, k_stride: u32, v_offset: u32, v_stride: u32,
  head_size: u32, causal: u32, scale: f32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read> plan: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

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
        @builtin(subgroup_invocation_id) member: u32, @builtin(local_invocation_index) lane: u32) {
  let index = id.y * grid.x + id.x;
  if (index >= params.count) { return; }
  let work = plan[index % params.blocks];
  let head = index / params.blocks;
  let width = params.head_size / 4u;
  let end = work.w;
  // Lanes past the sequence repeat its last row and write nothing, so that control flow stays uniform.
  let row = min(work.x + lane, work.y - 1u);
  let live = work.x + lane < work.y;
  let q_at = params.q_offset + row * params.q_stride + head * width;
  let k_at = params.k_offset + (head / params.group) * width;
  let v_at = params.v_offset + (head / params.group) * width;
  let o_at = (row * params.heads + head) * width;
  let scale = params.scale * LOG2_E;
  let causal = params.causal == 1u;
  let stop = select(end, min(end, work.x + LANES), causal);
  let visible = select(end, row + 1u, causal);
  var m = NOTHING;
  var l = 0.0;
  for (var key = work.z; key < stop; key += KEYS) {
    var s = array<f32, KEYS>();
    let own_key = min(key + member % KEYS, end - 1u);
    for (var d = 0u; d < width; d++) {
      let x = q[q_at + d];
      let own = k[k_at + own_key * params.k_stride + d];
      s[0] = dot4(x, subgroupBroadcast(own, 0u), s[0]); // each lane
    }
    var top = m;
    for (var j = 0u; j < KEYS; j++) {
      s[j] = select(NOTHING, s[j] * scale, key + j < visible);
      top = max(top, s[j]);
    }
    let shrink = exp2(m - top);
    m = top;
    l *= shrink;
    for (var j = 0u; j < KEYS; j++) {
      s[j] = exp2(s[j] - m);
      l += s[j];
    }
    let finish = select(1.0, 1.0 / l, key + KEYS >= stop);
    for (var d = 0u; d < width; d++) {
      var sum = vec4f();
      if (live && key > work.z) { sum = o[o_at + d] * shrink; }
      let own = v[v_at + own_key * params.v_stride + d];
      sum = add4(s[0], subgroupBroadcast(own, 0u), sum); // each lane
      if (live) { o[o_at + d] = sum * finish; }
    }
  }
  if (live) { lse[row * params.heads + head] = (m + log2(l)) * LN_2; }
}
