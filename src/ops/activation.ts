import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { elementGrid } from "./elementwise.ts";
import { inGroups } from "./groups.ts";
import { rowGrid } from "./row-grid.ts";

/** Which GELU: "none" is x Phi(x) exactly (with erf), "tanh" the usual approximation (GPT-2). */
export type GeluApproximation = "tanh" | "none";

/** y = x Phi(x), elementwise, Phi the distribution function of the standard normal (Hendrycks and Gimpel, 2016). */
export function gelu(step: Step, x: Tensor, approximate: GeluApproximation): Tensor {
  const count = x.size;
  const y = step.tensor(x.shape);
  const { kernel, group } = inGroups(kernels.gelu, count);
  step.run(kernel, {
    bindings: { x, y },
    params: { count: count / group },
    overrides: { TANH: approximate === "tanh" },
    workgroups: elementGrid(count),
    cost: { flops: 25 * count, bytes: 8 * count },
  });
  return y;
}

/** dx = dy (Phi(x) + x Phi'(x)), the gradient of `gelu`. */
export function geluGradient(step: Step, dy: Tensor, x: Tensor, approximate: GeluApproximation): Tensor {
  const count = x.size;
  const dx = step.tensor(x.shape);
  const { kernel, group } = inGroups(kernels.gelu_gradient, count);
  step.run(kernel, {
    bindings: { dy, x, dx },
    params: { count: count / group },
    overrides: { TANH: approximate === "tanh" },
    workgroups: elementGrid(count),
    cost: { flops: 30 * count, bytes: 12 * count },
  });
  return dx;
}

/** y = max(x, 0), elementwise. */
export function relu(step: Step, x: Tensor): Tensor {
  const y = step.tensor(x.shape);
  const { kernel, group } = inGroups(kernels.relu, x.size);
  step.run(kernel, {
    bindings: { x, y },
    params: { count: x.size / group },
    workgroups: elementGrid(x.size),
    cost: { flops: x.size, bytes: 8 * x.size },
  });
  return y;
}

/** dx = dy where y = relu(x) is positive, else 0. */
export function reluGradient(step: Step, dy: Tensor, y: Tensor): Tensor {
  const dx = step.tensor(y.shape);
  const { kernel, group } = inGroups(kernels.relu_gradient, y.size);
  step.run(kernel, {
    bindings: { dy, y, dx },
    params: { count: y.size / group },
    workgroups: elementGrid(y.size),
    cost: { flops: y.size, bytes: 12 * y.size },
  });
  return dx;
}

/**
 * The gated activation of Llama (SwiGLU, Shazeer 2020): y[t, j] = silu(gateUp[t, j]) * gateUp[t, F + j]. gateUp
 * [T, 2 F] is the output of one fused product; returns [T, F].
 */
export function swiglu(step: Step, gateUp: Tensor): Tensor {
  const [rows, both] = gateUp.shape;
  const width = both / 2;
  const { kernel, group } = inGroups(kernels.swiglu, width);
  const grid = rowGrid(rows, width / group);
  const y = step.tensor([rows, width]);
  step.run(kernel, {
    bindings: { gate_up: gateUp, y },
    params: { rows, width: width / group, ...grid.params },
    workgroups: grid.workgroups,
    cost: { flops: 10 * y.size, bytes: 12 * y.size },
  });
  return y;
}

/** The gradient of `swiglu`: dy [T, F], gateUp [T, 2 F]; returns the gradient of gateUp [T, 2 F]. */
export function swigluGradient(step: Step, dy: Tensor, gateUp: Tensor): Tensor {
  const [rows, both] = gateUp.shape;
  const width = both / 2;
  const { kernel, group } = inGroups(kernels.swiglu_gradient, width);
  const grid = rowGrid(rows, width / group);
  const dGateUp = step.tensor([rows, both]);
  step.run(kernel, {
    bindings: { dy, gate_up: gateUp, d_gate_up: dGateUp },
    params: { rows, width: width / group, ...grid.params },
    workgroups: grid.workgroups,
    cost: { flops: 15 * dy.size, bytes: 20 * dy.size },
  });
  return dGateUp;
}
