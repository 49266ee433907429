// attention_matrix_dq: the query gradient of attention on tensor cores, probabilities recomputed from the log-sum-exp.
//
//   P_j = exp(scale q . k_j - lse) ; dS_j = P_j (do . v_j - D) ; dq = scale sum_j dS_j k_j
//
// as attention_dq.wgsl, with f16 operands and f32 sums. A row of do is divided by a power of two (stats.z holds its largest
// magnitude), so that small gradients keep their bits; dq is multiplied by it again.
// Shapes and plan: as attention_matrix_forward.wgsl; d_out [T, heads x HEAD_SIZE]; stats [T, heads] from
// attention_matrix_delta; dq f32 with an offset and a stride of its own, in vec4.
// Who calls it: ops/attend-matrix.ts, attendHeadsGradient. Needs the feature chromium-experimental-subgroup-matrix.
// Tiling: as attention_matrix_forward.wgsl; the subgroup's part of workgroup memory holds scores, then do . v, then dS.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
requires immediate_address_space;
requires subgroup_id;
// All lanes of a subgroup take the same turns below; the rule that proves it does not follow subgroup_id.
diagnostic(off, chromium.subgroup_matrix_uniformity);

const SUBGROUP = 32u;
const ROWS = 16u;
const COLUMNS = 16u;
const DEPTH = 16u;
const HEAD_SIZE = 64u;
override CAUSAL: bool = true;

struct Params {
  blocks: u32, count: u32, heads: u32, group: u32, dq_offset: u32, dq_stride: u32, scale: f32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> packed: array<vec4u>;
@group(0) @binding(1) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(2) var<storage, read> stats: array<vec4f>;
@group(0) @binding(3) var<storage, read> plan: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> dq: array<f32>;

const LANES = 4u * SUBGROUP;
const KEYS = 32u;
// Groups of eight f16 in a row, and a row's place.
const WIDE = HEAD_SIZE / 8u;
const PITCH = WIDE + 1u;
// Lanes of a query's row, and keys of a lane.
const SHARE = SUBGROUP / ROWS;
const SPAN = KEYS / SHARE;
// Scores in groups of four f32, probabilities in groups of eight f16.
const SCORE_PITCH = KEYS / 4u + 1u;
const SCORES = ROWS * SCORE_PITCH;
const PROBABILITY_PITCH = KEYS / 8u + 1u;
const PROBABILITIES = ROWS * PROBABILITY_PITCH;

// Keys, then values; at first the queries of the whole workgroup, then their do.
const VALUES_AT = KEYS * PITCH;
const ROWS_SIZE = max(2u * KEYS, 4u * ROWS) * PITCH;
var<workgroup> rows: array<vec4u, ROWS_SIZE>;
var<workgroup> scores: array<vec4u, 4u * SCORES>;
var<workgroup> probabilities: array<vec4u, 4u * PROBABILITIES>;

fn halves(a: vec4f, b: vec4f) -> vec4u {
  return vec4u(pack2x16float(a.xy), pack2x16float(a.zw), pack2x16float(b.xy), pack2x16float(b.zw));
}

// The power of two that brings numbers of at most `peak` to 2^2 or less: f16 then keeps the bits of all that are within
// 2^15 of it, and their products with values stay far from overflow.
fn inverse_of(peak: f32) -> f32 {
  return bitcast<f32>((255u - clamp(bitcast<u32>(peak) >> 23u, 20u, 250u)) << 23u);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32, @builtin(subgroup_id) subgroup: u32,
        @builtin(subgroup_invocation_id) lane: u32) {
  let block = id.y * grid.x + id.x;
  if (block >= params.count) { return; }
  let work = plan[block % params.blocks];
  let head = block / params.blocks;
  let end = work.w;
  let groups = params.heads / params.group;
  let stride = (params.heads + 2u * groups) * WIDE;
  let k_at = (params.heads + head / params.group) * WIDE;
  let v_at = k_at + groups * WIDE;
  for (var i = index; i < 4u * ROWS * WIDE; i += LANES) {
    let row = min(work.x + i / WIDE, work.y - 1u);
    rows[i / WIDE * PITCH + i % WIDE] = packed[row * stride + head * WIDE + i % WIDE];
  }
  workgroupBarrier();
  var queries: array<subgroup_matrix_left<f16, DEPTH, ROWS>, HEAD_SIZE / DEPTH>;
  for (var d = 0u; d < HEAD_SIZE / DEPTH; d++) {
    queries[d] = subgroupMatrixLoad<subgroup_matrix_left<f16, DEPTH, ROWS>, row_major>(
      &rows, subgroup * ROWS * PITCH + d * (DEPTH / 8u), PITCH);
  }
  workgroupBarrier();
  for (var i = index; i < 4u * ROWS * WIDE; i += LANES) {
    let at = min(work.x + i / WIDE, work.y - 1u) * params.heads + head;
    let inverse = inverse_of(stats[at].z);
    let source = at * (HEAD_SIZE / 4u) + i % WIDE * 2u;
    rows[i / WIDE * PITCH + i % WIDE] = halves(d_out[source] * inverse, d_out[source + 1u] * inverse);
  }
  workgroupBarrier();
  var gradients: array<subgroup_matrix_left<f16, DEPTH, ROWS>, HEAD_SIZE / DEPTH>;
  for (var d = 0u; d < HEAD_SIZE / DEPTH; d++) {
    gradients[d] = subgroupMatrixLoad<subgroup_matrix_left<f16, DEPTH, ROWS>, row_major>(
      &rows, subgroup * ROWS * PITCH + d * (DEPTH / 8u), PITCH);
  }
  workgroupBarrier();
  let first = work.x + subgroup * ROWS;
  let row = first + lane / SHARE;
  let column = lane % SHARE * SPAN;
  let visible = select(end, min(end, row + 1u), CAUSAL);
  let stop = select(end, min(end, work.x + 4u * ROWS), CAUSAL);
  let score_at = subgroup * SCORES + lane / SHARE * SCORE_PITCH + column / 4u;
  let own = stats[min(row, work.y - 1u) * params.heads + head];
  let own_d = own.y * inverse_of(own.z);
  var sums: array<subgroup_matrix_result<f32, COLUMNS, ROWS>, HEAD_SIZE / COLUMNS>;
  var p: array<vec4f, SPAN / 4u>;
  for (var key = work.z; key < stop; key += KEYS) {
    for (var i = index; i < KEYS * WIDE; i += LANES) {
      let source = min(key + i / WIDE, end - 1u) * stride + i % WIDE;
      let place = i / WIDE * PITCH + i % WIDE;
      rows[place] = packed[source + k_at];
      rows[VALUES_AT + place] = packed[source + v_at];
    }
    workgroupBarrier();
    for (var c = 0u; c < KEYS / COLUMNS; c++) {
      var s = subgroup_matrix_result<f32, COLUMNS, ROWS>();
      for (var d = 0u; d < HEAD_SIZE / DEPTH; d++) {
        let right = subgroupMatrixLoad<subgroup_matrix_right<f16, COLUMNS, DEPTH>, col_major>(
          &rows, c * COLUMNS * PITCH + d * (DEPTH / 8u), PITCH);
        s = subgroupMatrixMultiplyAccumulate(queries[d], right, s);
      }
      subgroupMatrixStore<row_major>(&scores, subgroup * SCORES + c * (COLUMNS / 4u), s, SCORE_PITCH);
    }
    workgroupBarrier();
    for (var j = 0u; j < SPAN / 4u; j++) {
      let keys = vec4u(key + column + 4u * j) + vec4u(0u, 1u, 2u, 3u);
      p[j] = select(vec4f(0.0), exp2(bitcast<vec4f>(scores[score_at + j]) - own.x), keys < vec4u(visible));
    }
    workgroupBarrier();
    for (var c = 0u; c < KEYS / COLUMNS; c++) {
      var s = subgroup_matrix_result<f32, COLUMNS, ROWS>();
      for (var d = 0u; d < HEAD_SIZE / DEPTH; d++) {
        let right = subgroupMatrixLoad<subgroup_matrix_right<f16, COLUMNS, DEPTH>, col_major>(
          &rows, VALUES_AT + c * COLUMNS * PITCH + d * (DEPTH / 8u), PITCH);
        s = subgroupMatrixMultiplyAccumulate(gradients[d], right, s);
      }
      subgroupMatrixStore<row_major>(&scores, subgroup * SCORES + c * (COLUMNS / 4u), s, SCORE_PITCH);
    }
    workgroupBarrier();
    for (var j = 0u; j < SPAN / 8u; j++) {
      let low = p[2u * j] * (bitcast<vec4f>(scores[score_at + 2u * j]) - own_d);
      let high = p[2u * j + 1u] * (bitcast<vec4f>(scores[score_at + 2u * j + 1u]) - own_d);
      probabilities[subgroup * PROBABILITIES + lane / SHARE * PROBABILITY_PITCH + column / 8u + j] = halves(low, high);
    }
    workgroupBarrier();
    for (var step = 0u; step < KEYS / DEPTH; step++) {
      let left = subgroupMatrixLoad<subgroup_matrix_left<f16, DEPTH, ROWS>, row_major>(
        &probabilities, subgroup * PROBABILITIES + step * (DEPTH / 8u), PROBABILITY_PITCH);
      for (var c = 0u; c < HEAD_SIZE / COLUMNS; c++) {
        let right = subgroupMatrixLoad<subgroup_matrix_right<f16, COLUMNS, DEPTH>, row_major>(
          &rows, step * DEPTH * PITCH + c * (COLUMNS / 8u), PITCH);
        sums[c] = subgroupMatrixMultiplyAccumulate(left, right, sums[c]);
      }
    }
    workgroupBarrier();
  }
  for (var c = 0u; c < HEAD_SIZE / COLUMNS; c++) {
    subgroupMatrixStore<row_major>(&scores, subgroup * SCORES, sums[c], COLUMNS / 4u);
    workgroupBarrier();
    for (var i = lane; i < ROWS * COLUMNS; i += SUBGROUP) {
      let at = first + i / COLUMNS;
      if (at < work.y) {
        let factor_back = params.scale / inverse_of(stats[at * params.heads + head].z);
        dq[4u * (params.dq_offset + at * params.dq_stride) + head * HEAD_SIZE + c * COLUMNS + i % COLUMNS] =
          bitcast<f32>(scores[subgroup * SCORES + i / 4u][i % 4u]) * factor_back;
      }
    }
    workgroupBarrier();
  }
}
