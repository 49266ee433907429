// adam: one step of Adam (Kingma and Ba 2015) with decoupled weight decay (AdamW, Loshchilov and Hutter 2019), in place:
//   g = gradient * min(1, clip / (norm + 1e-6))  when CLIP, norm the joint norm of the gradient, of which the square is given
//   m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
//   parameter <- (1 - lr weight_decay) parameter - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
// Shapes: parameter, gradient, m, v [GROUP count]; squared_norm [1].
// The host computes in float64 what f32 would round badly: 1 - beta (rest1, rest2), decay = 1 - lr weight_decay,
// step_size = lr / (1 - beta1^t), root_scale = 1 / sqrt(1 - beta2^t).
// Who calls it: ops/adam.ts, adamStep, once for all parameters together.
// Tiling: a lane takes four elements: a group, or 256 apart; memory bound: 16 bytes read and 12 written for each.
requires immediate_address_space;

override CLIP: bool = false;

// begin elements
// One at a time; kernels/elements/groups.wgsl takes groups of four.
alias Group = f32;
const GROUP = 1u;
fn total(group: Group) -> f32 { return group; }
// end elements

struct Params {
  count: u32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, step_size: f32, root_scale: f32, eps: f32, decay: f32,
  clip: f32
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> gradient: array<Group>;
@group(0) @binding(1) var<storage, read> squared_norm: array<f32>;
@group(0) @binding(2) var<storage, read_write> parameter: array<Group>;
@group(0) @binding(3) var<storage, read_write> m: array<Group>;
@group(0) @binding(4) var<storage, read_write> v: array<Group>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let first = (group.y * grid.x + group.x) * (1024u / GROUP) + lane;
  let end = min(first + 1024u / GROUP, params.count);
  var factor = 1.0;
  if (CLIP) { factor = min(1.0, params.clip / (sqrt(squared_norm[0]) + 1e-6)); }
  for (var i = first; i < end; i += 256u) {
    let g = gradient[i] * factor;
    let mean = params.beta1 * m[i] + params.rest1 * g;
    let square = params.beta2 * v[i] + params.rest2 * g * g;
    m[i] = mean;
    v[i] = square;
    parameter[i] = params.decay * parameter[i]
      - params.step_size * mean / (sqrt(square) * params.root_scale + params.eps);
  }
}
