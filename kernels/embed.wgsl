// embed: y[t] = a row of one of three tables, named by source[t]: its two top bits say which table (0 token embeddings,
// 1 prefix, 2 suffix), the other 30 which row.
// Shapes: table (`weights`) [V, D], f32 or, in a variant, as kernels/weights/*.wgsl say, of which the rows
// first_row ... end_row - 1 are bound;
// prefix [prefix_rows, D]; suffix [suffix_rows, D]; source u32 [T]; y [T, D]. T = rows, D = GROUP width.
// Who calls it: ops/embedding.ts, embed and embedPrompt. A table past the binding limit is taken in windows of rows: each
// dispatch writes the rows whose token lies in its window, the first one also those of prefix and suffix.
// A row that no table has becomes `missing` (NaN), so that a wrong id is seen in the first loss.
// Tiling: `lanes` lanes share a row and 64 / lanes rows a workgroup, so that narrow rows leave no lane idle; rows lie on
// the grid's x and y, ranges of `span` columns on its z.
requires immediate_address_space;

struct Params {
  rows: u32, width: u32, first_row: u32, end_row: u32, vocabulary: u32, prefix_rows: u32, suffix_rows: u32,
  missing: f32, lanes: u32, span: u32
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read> prefix: array<Group>;
@group(0) @binding(3) var<storage, read> suffix: array<Group>;
@group(0) @binding(4) var<storage, read_write> y: array<Group>;

// begin weights
@group(0) @binding(1) var<storage, read> weights: array<f32>;

// Element [row, column] of a matrix with rows of `width` elements.
fn weight(row: u32, column: u32, width: u32) -> f32 { return weights[row * width + column]; }
// end weights

// begin elements
// One at a time; kernels/elements/weight_groups.wgsl takes groups of four.
alias Group = f32;
const GROUP = 1u;
fn element(row: u32, column: u32, width: u32) -> Group { return weight(row, column, width); }
// end elements

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let t = (group.y * grid.x + group.x) * (64u / params.lanes) + index / params.lanes;
  if (t >= params.rows) { return; }
  let first = group.z * params.span + index % params.lanes;
  let end = min((group.z + 1u) * params.span, params.width);
  let kind = source[t] >> 30u;
  let row = source[t] & 0x3fffffffu;
  let start = row * params.width;
  let at = t * params.width;
  if (kind == 0u && row < params.vocabulary) {
    if (row < params.first_row || row >= params.end_row) { return; }
    let bound = row - params.first_row;
    for (var column = first; column < end; column += params.lanes) {
      y[at + column] = element(bound, column, params.width);
    }
    return;
  }
  if (params.first_row > 0u) { return; }
  let in_prefix = kind == 1u && row < params.prefix_rows;
  let in_suffix = kind == 2u && row < params.suffix_rows;
  for (var column = first; column < end; column += params.lanes) {
    var value = Group(params.missing);
    if (in_prefix) { value = prefix[start + column]; }
    if (in_suffix) { value = suffix[start + column]; }
    y[at + column] = value;
  }
}
