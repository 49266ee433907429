// embed: y[t] = a row of one of three tables, named by source[t]: its two top bits say which table (0 token embeddings,
// 1 prefix, 2 suffix), the other 30 which row.
// Shapes: table [V, D], f32 or packed f16 (F16), of which the rows first ... end - 1 are bound; prefix [prefix_rows, D];
// suffix [suffix_rows, D]; source u32 [T]; y [T, D]. T = rows, D = width.
// Who calls it: ops/embedding.ts, embed and embedPrompt. A table past the binding limit is taken in windows of rows: each
// dispatch writes the rows whose token lies in its window, the first one also those of prefix and suffix.
// A row that no table has becomes `missing` (NaN), so that a wrong id is seen in the first loss.
// Tiling: one lane an element; rows on the grid's x and y, columns (64 a workgroup) on z.
requires immediate_address_space;

override F16: bool = false;

struct Params {
  rows: u32, width: u32, first: u32, end: u32, vocabulary: u32, prefix_rows: u32, suffix_rows: u32, missing: f32
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read> prefix: array<f32>;
@group(0) @binding(3) var<storage, read> suffix: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

fn table_value(i: u32) -> f32 {
  if (F16) {
    let pair = unpack2x16float(table[i >> 1u]);
    return select(pair.x, pair.y, (i & 1u) == 1u);
  }
  return bitcast<f32>(table[i]);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let t = group.y * grid.x + group.x;
  let column = group.z * 64u + lane;
  if (t >= params.rows || column >= params.width) { return; }
  let kind = source[t] >> 30u;
  let row = source[t] & 0x3fffffffu;
  let at = t * params.width + column;
  if (kind == 0u && row < params.vocabulary) {
    if (row >= params.first && row < params.end) {
      y[at] = table_value((row - params.first) * params.width + column);
    }
    return;
  }
  if (params.first > 0u) { return; }
  var value = params.missing;
  if (kind == 1u && row < params.prefix_rows) { value = prefix[row * params.width + column]; }
  if (kind == 2u && row < params.suffix_rows) { value = suffix[row * params.width + column]; }
  y[at] = value;
}
