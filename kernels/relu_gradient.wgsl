// relu_gradient: dx = dy where y > 0, else 0, with y = relu(x): the slope at zero is taken as zero
// Shapes: dy, y, dx [count].
// Who calls it: ops/activation.ts, reluGradient.
// Tiling: a lane takes four elements, 256 apart, so that neighbouring lanes touch neighbouring elements.
requires immediate_address_space;

struct Params { count: u32 }

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let first = (group.y * grid.x + group.x) * 1024u + lane;
  let end = min(first + 1024u, params.count);
  for (var i = first; i < end; i += 256u) {
    dx[i] = select(0.0, dy[i], y[i] > 0.0);
  }
}
