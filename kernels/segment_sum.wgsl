// segment_sum: out[target_row[s], j] = sum_i x[order[i], j] over i in [starts[s], starts[s + 1]); added to what was there
// when ACCUMULATE. Without ORDERED, order[i] = i; without TARGETED, target_row[s] = s.
// Shapes: x [T, D]; starts u32 [S + 1]; order u32 [T]; target_row u32 [S], distinct; out [*, D]. S = segments,
// D = GROUP width.
// Who calls it: ops/reduce.ts, segmentSum; ops/embedding.ts, embeddingGradient.
// Tiling: as gather_rows: `lanes` lanes share a segment, 64 / lanes segments a workgroup, ranges of `span` columns on z. A
// lane owns its columns and walks over the segment's rows for each: no barrier, no atomics, a fixed order of the sums.
requires immediate_address_space;

// begin elements
// One at a time; kernels/elements/groups.wgsl takes groups of four.
alias Group = f32;
const GROUP = 1u;
fn total(group: Group) -> f32 { return group; }
// end elements

override ORDERED: bool = false;
override TARGETED: bool = false;
override ACCUMULATE: bool = false;

// The segments first_segment ... first_segment + segments - 1 are summed; out starts at the row first_row.
struct Params { segments: u32, width: u32, first_segment: u32, first_row: u32, lanes: u32, span: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<Group>;
@group(0) @binding(1) var<storage, read> starts: array<u32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> target_row: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<Group>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let number = (group.y * grid.x + group.x) * (64u / params.lanes) + index / params.lanes;
  if (number >= params.segments) { return; }
  let segment = params.first_segment + number;
  let start = starts[segment];
  let stop = starts[segment + 1u];
  var out_row = segment;
  if (TARGETED) { out_row = target_row[segment]; }
  let first = group.z * params.span + index % params.lanes;
  let end = min((group.z + 1u) * params.span, params.width);
  for (var column = first; column < end; column += params.lanes) {
    var sum = Group();
    for (var i = start; i < stop; i++) {
      var row = i;
      if (ORDERED) { row = order[i]; }
      sum += x[row * params.width + column];
    }
    let at = (out_row - params.first_row) * params.width + column;
    if (ACCUMULATE) { sum += out[at]; }
    out[at] = sum;
  }
}
