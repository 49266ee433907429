// attention_matrix_dkv: the key and value gradients of attention on tensor cores, probabilities recomputed from the
// log-sum-exp.
//
//   P_i = exp(scale q_i . k - lse_i) ; dv = sum_i P_i do_i ; dS_i = P_i (do_i . v - D_i) ; dk = scale sum_i dS_i q_i
//
// as attention_dkv.wgsl, with f16 operands and f32 sums, in the same order of heads and ranges. All do that a workgroup
// reads are divided by one power of two, since they meet in one sum; dk and dv are multiplied by it again.
// Shapes and plan: as attention_dkv.wgsl, with 4 ROWS key rows a workgroup; `packed` as attention_matrix_forward.wgsl; stats
// [T, heads] from attention_matrix_delta.
// Who calls it: ops/attend-matrix.ts, attendHeadsGradient. Needs the feature chromium-experimental-subgroup-matrix.
// Tiling: four subgroups, each with ROWS keys and values of one head in its registers, as matrices, and the sums of their
// gradients; tiles of 32 queries and do pass through workgroup memory. Scores stand with keys as rows: a tile's queries
// are the columns, so that P and dS are left operands as they lie. The rest as attention_matrix_forward.wgsl.
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
override SHARED: bool = false;

struct Params {
  blocks: u32, count: u32, heads: u32, group: u32,
  dk_offset: u32, dk_stride: u32, dv_offset: u32, dv_stride: u32, ranges: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> packed: array<vec4u>;
@group(0) @binding(1) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(2) var<storage, read> stats: array<vec4f>;
@group(0) @binding(3) var<storage, read> plan: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> dk: array<f32>;
@group(0) @binding(5) var<storage, read_write> dv: array<f32>;

const LANES = 4u * SUBGROUP;
// Query rows of a tile.
const QUERIES = 32u;
// Groups of eight f16 in a row, and a row's place.
const WIDE = HEAD_SIZE / 8u;
const PITCH = WIDE + 1u;
// Lanes of a key's row, and queries of a lane.
const SHARE = SUBGROUP / ROWS;
const SPAN = QUERIES / SHARE;
// Scores in groups of four f32, probabilities in groups of eight f16.
const SCORE_PITCH = QUERIES / 4u + 1u;
const SCORES = ROWS * SCORE_PITCH;
const PROBABILITY_PITCH = QUERIES / 8u + 1u;
const PROBABILITIES = ROWS * PROBABILITY_PITCH;
const LOG2_E = 1.4426950408889634;

// Queries, then do; at first the keys of the whole workgroup, then its values.
const GRADIENTS_AT = QUERIES * PITCH;
const ROWS_SIZE = max(2u * QUERIES, 4u * ROWS) * PITCH;
var<workgroup> rows: array<vec4u, ROWS_SIZE>;
// At first the largest magnitudes that the lanes found.
var<workgroup> scores: array<vec4u, 4u * SCORES>;
var<workgroup> probabilities: array<vec4u, 4u * PROBABILITIES>;
// (lse log2(e), D) of a tile's queries.
var<workgroup> numbers: array<vec2f, QUERIES>;

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
  let kv_head = block / params.blocks;
  let groups = params.heads / params.group;
  let stride = (params.heads + 2u * groups) * WIDE;
  let k_at = (params.heads + kv_head) * WIDE;
  let v_at = k_at + groups * WIDE;
  // The largest magnitude of all do that are read here.
  var peak = 0.0;
  for (var range = work.z; range < work.w; range++) {
    let span = plan[params.ranges + range];
    for (var i = span.x * params.group + index; i < span.y * params.group; i += LANES) {
      peak = max(peak, stats[i / params.group * params.heads + kv_head * params.group + i % params.group].z);
    }
  }
  scores[index] = vec4u(bitcast<u32>(peak));
  for (var i = index; i < 4u * ROWS * WIDE; i += LANES) {
    rows[i / WIDE * PITCH + i % WIDE] = packed[min(work.x + i / WIDE, work.y - 1u) * stride + k_at + i % WIDE];
  }
  workgroupBarrier();
  for (var i = 0u; i < LANES; i++) { peak = max(peak, bitcast<f32>(scores[i].x)); }
  let inverse = inverse_of(peak);
  var keys: array<subgroup_matrix_left<f16, DEPTH, ROWS>, HEAD_SIZE / DEPTH>;
  for (var d = 0u; d < HEAD_SIZE / DEPTH; d++) {
    keys[d] = subgroupMatrixLoad<subgroup_matrix_left<f16, DEPTH, ROWS>, row_major>(
      &rows, subgroup * ROWS * PITCH + d * (DEPTH / 8u), PITCH);
  }
  workgroupBarrier();
  for (var i = index; i < 4u * ROWS * WIDE; i += LANES) {
    rows[i / WIDE * PITCH + i % WIDE] = packed[min(work.x + i / WIDE, work.y - 1u) * stride + v_at + i % WIDE];
  }
  workgroupBarrier();
  var values: array<subgroup_matrix_left<f16, DEPTH, ROWS>, HEAD_SIZE / DEPTH>;
  for (var d = 0u; d < HEAD_SIZE / DEPTH; d++) {
    values[d] = subgroupMatrixLoad<subgroup_matrix_left<f16, DEPTH, ROWS>, row_major>(
      &rows, subgroup * ROWS * PITCH + d * (DEPTH / 8u), PITCH);
  }
  workgroupBarrier();
  let first = work.x + subgroup * ROWS;
  let key = first + lane / SHARE;
  let column = lane % SHARE * SPAN;
  let score_at = subgroup * SCORES + lane / SHARE * SCORE_PITCH + column / 4u;
  let probability_at = subgroup * PROBABILITIES + lane / SHARE * PROBABILITY_PITCH + column / 8u;
  var dk_sums: array<subgroup_matrix_result<f32, COLUMNS, ROWS>, HEAD_SIZE / COLUMNS>;
  var dv_sums: array<subgroup_matrix_result<f32, COLUMNS, ROWS>, HEAD_SIZE / COLUMNS>;
  var p: array<vec4f, SPAN / 4u>;
  for (var head = kv_head * params.group; head < (kv_head + 1u) * params.group; head++) {
    for (var range = work.z; range < work.w; range++) {
      let span = plan[params.ranges + range];
      let start = select(span.x, max(span.x, work.x), CAUSAL);
      for (var row = start; row < span.y; row += QUERIES) {
        for (var i = index; i < QUERIES * WIDE; i += LANES) {
          let at = min(row + i / WIDE, span.y - 1u);
          let place = i / WIDE * PITCH + i % WIDE;
          let from_d = (at * params.heads + head) * (HEAD_SIZE / 4u) + i % WIDE * 2u;
          rows[place] = packed[at * stride + head * WIDE + i % WIDE];
          rows[GRADIENTS_AT + place] = halves(d_out[from_d] * inverse, d_out[from_d + 1u] * inverse);
        }
        for (var i = index; i < QUERIES; i += LANES) {
          let own = stats[min(row + i, span.y - 1u) * params.heads + head];
          numbers[i] = vec2f(own.x, own.y * inverse);
        }
        workgroupBarrier();
        for (var c = 0u; c < QUERIES / COLUMNS; c++) {
          var s = subgroup_matrix_result<f32, COLUMNS, ROWS>();
          for (var d = 0u; d < HEAD_SIZE / DEPTH; d++) {
            let right = subgroupMatrixLoad<subgroup_matrix_right<f16, COLUMNS, DEPTH>, col_major>(
              &rows, c * COLUMNS * PITCH + d * (DEPTH / 8u), PITCH);
            s = subgroupMatrixMultiplyAccumulate(keys[d], right, s);
          }
          subgroupMatrixStore<row_major>(&scores, subgroup * SCORES + c * (COLUMNS / 4u), s, SCORE_PITCH);
        }
        workgroupBarrier();
        for (var j = 0u; j < SPAN / 4u; j++) {
          let x = column + 4u * j;
          let at = vec4u(row + x) + vec4u(0u, 1u, 2u, 3u);
          let lse = vec4f(numbers[x].x, numbers[x + 1u].x, numbers[x + 2u].x, numbers[x + 3u].x);
          var seen = at < vec4u(span.y);
          if (CAUSAL) { seen = seen & (at >= vec4u(key)); }
          p[j] = select(vec4f(0.0), exp2(bitcast<vec4f>(scores[score_at + j]) - lse), seen);
        }
        for (var j = 0u; j < SPAN / 8u; j++) { probabilities[probability_at + j] = halves(p[2u * j], p[2u * j + 1u]); }
        workgroupBarrier();
        for (var step = 0u; step < QUERIES / DEPTH; step++) {
          let left = subgroupMatrixLoad<subgroup_matrix_left<f16, DEPTH, ROWS>, row_major>(
            &probabilities, subgroup * PROBABILITIES + step * (DEPTH / 8u), PROBABILITY_PITCH);
          for (var c = 0u; c < HEAD_SIZE / COLUMNS; c++) {
            let right = subgroupMatrixLoad<subgroup_matrix_right<f16, COLUMNS, DEPTH>, row_major>(
              &rows, GRADIENTS_AT + step * DEPTH * PITCH + c * (COLUMNS / 8u), PITCH);
            dv_sums[c] = subgroupMatrixMultiplyAccumulate(left, right, dv_sums[c]);
          }
        }
        for (var c = 0u; c < QUERIES / COLUMNS; c++) {
          var s = subgroup_matrix_result<f32, COLUMNS, ROWS>();
          for (var d = 0u; d < HEAD_SIZE / DEPTH; d++) {
            let right = subgroupMatrixLoad<subgroup_matrix_right<f16, COLUMNS, DEPTH>, col_major>(
              &rows, GRADIENTS_AT + c * COLUMNS * PITCH + d * (DEPTH / 8u), PITCH);
            s = subgroupMatrixMultiplyAccumulate(values[d], right, s);
          }
          subgroupMatrixStore<row_major>(&scores, subgroup * SCORES + c * (COLUMNS / 4u), s, SCORE_PITCH);
        }
        workgroupBarrier();
        for (var j = 0u; j < SPAN / 4u; j++) {
          let x = column + 4u * j;
          let d = vec4f(numbers[x].y, numbers[x + 1u].y, numbers[x + 2u].y, numbers[x + 3u].y);
          p[j] *= bitcast<vec4f>(scores[score_at + j]) - d;
        }
        for (var j = 0u; j < SPAN / 8u; j++) { probabilities[probability_at + j] = halves(p[2u * j], p[2u * j + 1u]); }
        workgroupBarrier();
        for (var step = 0u; step < QUERIES / DEPTH; step++) {
          let left = subgroupMatrixLoad<subgroup_matrix_left<f16, DEPTH, ROWS>, row_major>(
            &probabilities, subgroup * PROBABILITIES + step * (DEPTH / 8u), PROBABILITY_PITCH);
          for (var c = 0u; c < HEAD_SIZE / COLUMNS; c++) {
            let right = subgroupMatrixLoad<subgroup_matrix_right<f16, COLUMNS, DEPTH>, row_major>(
              &rows, step * DEPTH * PITCH + c * (COLUMNS / 8u), PITCH);
            dk_sums[c] = subgroupMatrixMultiplyAccumulate(left, right, dk_sums[c]);
          }
        }
        workgroupBarrier();
      }
    }
  }
  // The queries that dS met were packed times scale log2(e).
  let dv_factor = 1.0 / inverse;
  let dk_factor = dv_factor / LOG2_E;
  for (var c = 0u; c < HEAD_SIZE / COLUMNS; c++) {
    for (var which = 0u; which < 2u; which++) {
      if (which == 0u) {
        subgroupMatrixStore<row_major>(&scores, subgroup * SCORES, dk_sums[c], COLUMNS / 4u);
      } else {
        subgroupMatrixStore<row_major>(&scores, subgroup * SCORES, dv_sums[c], COLUMNS / 4u);
      }
      workgroupBarrier();
      for (var i = lane; i < ROWS * COLUMNS; i += SUBGROUP) {
        let at = first + i / COLUMNS;
        if (at < work.y) {
          let x = kv_head * HEAD_SIZE + c * COLUMNS + i % COLUMNS;
          let value = bitcast<f32>(scores[subgroup * SCORES + i / 4u][i % 4u]);
          if (which == 0u) {
            dk[4u * (params.dk_offset + at * params.dk_stride) + x] = value * dk_factor;
          } else if (SHARED) {
            dk[4u * (params.dv_offset + at * params.dv_stride) + x] = value * dv_factor;
          } else {
            dv[4u * (params.dv_offset + at * params.dv_stride) + x] = value * dv_factor;
          }
        }
      }
      workgroupBarrier();
    }
  }
}
