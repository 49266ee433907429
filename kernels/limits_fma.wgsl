// limits_fma: y[lane] = the end of twelve chains s <- s * factor + addend: measures how many multiplications and
// additions a second the device makes when nothing has to be fetched.
// Shapes: y [workgroups * 64].
// Who calls it: bench/harness.js, as the limit that the other benchmarks give their rates a share of.
// Tiling: twelve independent chains a lane hide the latency of each; params.turns times 4 links of every chain.
requires immediate_address_space;

struct Params { turns: u32, factor: f32, addend: f32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let factor = params.factor;
  let addend = params.addend;
  let turns = params.turns;
  var s: array<f32, 12>;
  for (var j = 0u; j < 12u; j++) { s[j] = f32(id.x + j); }
  for (var turn = 0u; turn < turns; turn++) {
    for (var link = 0u; link < 4u; link++) {
      for (var j = 0u; j < 12u; j++) { s[j] = fma(s[j], factor, addend); }
    }
  }
  var sum = 0.0;
  for (var j = 0u; j < 12u; j++) { sum += s[j]; }
  y[id.x] = sum;
}
