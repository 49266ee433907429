// attention_matrix_forward: o = softmax(scale q k^T) v and its natural log-sum-exp, as attention_forward.wgsl, on tensor
// cores: subgroup matrices with f16 operands and f32 sums. Scores are never written to memory.
//
//   first over all keys    lse = log sum_j exp(s_j)                   s_j = scale q . k_j
//   then once more         o = sum_j p_j v_j                          p_j = exp(s_j - lse), rounded to f16
//
// A matrix shows no lane its elements, so an output that grows with a running maximum could not be rescaled in place.
// Scores are made twice instead: three products in place of two, and no rescaling at all.
// Shapes, plan and CAUSAL: as attention_forward.wgsl, the plan with 4 ROWS query rows a workgroup; q | k | v are `packed`,
// [T, (heads + 2 groups) HEAD_SIZE] f16 from pack_heads.wgsl, q times scale log2(e). HEAD_SIZE is a multiple of 16, at most 128.
// Who calls it: ops/attend-matrix.ts, attendHeads. Needs the feature chromium-experimental-subgroup-matrix.
// Tiling: four subgroups, each with ROWS queries of one head in its registers, as matrices; tiles of 32 keys and values pass
// through workgroup memory, scores and probabilities through a part of it that is the subgroup's own. SUBGROUP / ROWS
// lanes share a query's row. Rows of f16 lie in groups of eight (vec4u) with one group of padding.
// ROWS, COLUMNS, DEPTH, SUBGROUP: as product_matrix.wgsl. The build reads this file without the bodies of its functions.
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

struct Params { blocks: u32, count: u32, heads: u32, group: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> packed: array<vec4u>;
@group(0) @binding(1) var<storage, read> plan: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> o: array<f32>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;

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
const NOTHING = -1e30;
const LN_2 = 0.6931471805599453;

// Keys, then values; at first the queries of the whole workgroup.
const VALUES_AT = KEYS * PITCH;
const ROWS_SIZE = max(2u * KEYS, 4u * ROWS) * PITCH;
var<workgroup> rows: array<vec4u, ROWS_SIZE>;
var<workgroup> scores: array<vec4u, 4u * SCORES>;
var<workgroup> probabilities: array<vec4u, 4u * PROBABILITIES>;

fn halves(a: vec4f, b: vec4f) -> vec4u {
  return vec4u(pack2x16float(a.xy), pack2x16float(a.zw), pack2x16float(b.xy), pack2x16float(b.zw));
}

// KEYS rows of `packed`, from group `at` of each on, to workgroup memory.
fn load_rows(to: u32, index: u32, key: u32, end: u32, at: u32, stride: u32) {
  for (var i = index; i < KEYS * WIDE; i += LANES) {
    rows[to + i / WIDE * PITCH + i % WIDE] = packed[min(key + i / WIDE, end - 1u) * stride + at + i % WIDE];
  }
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
  // Rows past the sequence repeat its last one.
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
  let first = work.x + subgroup * ROWS;
  let row = first + lane / SHARE;
  let column = lane % SHARE * SPAN;
  let visible = select(end, min(end, row + 1u), CAUSAL);
  let stop = select(end, min(end, work.x + 4u * ROWS), CAUSAL);
  let score_at = subgroup * SCORES + lane / SHARE * SCORE_PITCH + column / 4u;
  var m = NOTHING;
  var l = 0.0;
  var sums: array<subgroup_matrix_result<f32, COLUMNS, ROWS>, HEAD_SIZE / COLUMNS>;
  // Turn 0 finds the log-sum-exp, turn 1 the output.
  for (var turn = 0u; turn < 2u; turn++) {
    for (var key = work.z; key < stop; key += KEYS) {
      load_rows(0u, index, key, end, k_at, stride);
      if (turn == 1u) { load_rows(VALUES_AT, index, key, end, v_at, stride); }
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
      if (turn == 0u) {
        for (var j = 0u; j < SPAN / 4u; j++) {
          let keys = vec4u(key + column + 4u * j) + vec4u(0u, 1u, 2u, 3u);
          let seen = keys < vec4u(visible);
          let x = select(vec4f(NOTHING), bitcast<vec4f>(scores[score_at + j]), seen);
          let top = max(m, max(max(x.x, x.y), max(x.z, x.w)));
          let e = select(vec4f(0.0), exp2(x - top), seen);
          l = l * exp2(m - top) + ((e.x + e.y) + (e.z + e.w));
          m = top;
        }
      } else {
        for (var j = 0u; j < SPAN / 8u; j++) {
          let keys = vec4u(key + column + 8u * j) + vec4u(0u, 1u, 2u, 3u);
          let low = exp2(bitcast<vec4f>(scores[score_at + 2u * j]) - m);
          let high = exp2(bitcast<vec4f>(scores[score_at + 2u * j + 1u]) - m);
          probabilities[subgroup * PROBABILITIES + lane / SHARE * PROBABILITY_PITCH + column / 8u + j] =
            halves(select(vec4f(0.0), low, keys < vec4u(visible)),
                   select(vec4f(0.0), high, keys + vec4u(4u) < vec4u(visible)));
        }
        workgroupBarrier();
        for (var step = 0u; step < KEYS / DEPTH; step++) {
          let left = subgroupMatrixLoad<subgroup_matrix_left<f16, DEPTH, ROWS>, row_major>(
            &probabilities, subgroup * PROBABILITIES + step * (DEPTH / 8u), PROBABILITY_PITCH);
          for (var c = 0u; c < HEAD_SIZE / COLUMNS; c++) {
            let right = subgroupMatrixLoad<subgroup_matrix_right<f16, COLUMNS, DEPTH>, row_major>(
              &rows, VALUES_AT + step * DEPTH * PITCH + c * (COLUMNS / 8u), PITCH);
            sums[c] = subgroupMatrixMultiplyAccumulate(left, right, sums[c]);
          }
        }
        workgroupBarrier();
      }
    }
    if (turn == 0u) {
      for (var mask = 1u; mask < SHARE; mask *= 2u) {
        let other = subgroupShuffleXor(m, mask);
        let other_l = subgroupShuffleXor(l, mask);
        let top = max(m, other);
        // Added in the same order on both sides, so that the lanes of a row agree to the bit.
        let ours = l * exp2(m - top);
        let theirs = other_l * exp2(other - top);
        l = ours + theirs;
        m = top;
      }
      // From here on m is the log-sum-exp.
      m = m + log2(l);
      if (lane % SHARE == 0u && row < work.y) { lse[row * params.heads + head] = m * LN_2; }
    }
  }
  for (var c = 0u; c < HEAD_SIZE / COLUMNS; c++) {
    subgroupMatrixStore<row_major>(&scores, subgroup * SCORES, sums[c], COLUMNS / 4u);
    workgroupBarrier();
    for (var i = lane; i < ROWS * COLUMNS; i += SUBGROUP) {
      let at = first + i / COLUMNS;
      if (at < work.y) {
        o[(at * params.heads + head) * HEAD_SIZE + c * COLUMNS + i % COLUMNS] =
          bitcast<f32>(scores[subgroup * SCORES + i / 4u][i % 4u]);
      }
    }
    workgroupBarrier();
  }
}
