/**
 * The parts that every decoder layer is made of, forward and backward with respect to the input alone: the weights are
 * frozen.
 */
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { gelu, geluGradient, swiglu, swigluGradient } from "../ops/activation.ts";
import { conv1d, conv1dInputGradient } from "../ops/conv1d.ts";
import { add } from "../ops/elementwise.ts";
import { embed, embedPrompt } from "../ops/embedding.ts";
import { fusedLinear, fusedWeight } from "../ops/fused-linear.ts";
import { linear, linearInputGradient } from "../ops/linear.ts";
import { layerNorm, layerNormGradient, rmsNorm, rmsNormGradient } from "../ops/norm.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import type { DecoderWeights, LinearWeights, NormWeights } from "./decoder-weights.ts";
import type { PromptBatch } from "./prompt.ts";

/** The rows of the prompt, virtual tokens among them, with learned positions added where the model has them: [T, d]. */
export function embedRows(
  step: Step,
  weights: DecoderWeights<Tensor>,
  batch: PromptBatch,
  prefix: Tensor | null,
  suffix: Tensor | null,
): Tensor {
  const tokens = embedPrompt(step, weights.embedding, batch.source, prefix, suffix);
  if (weights.positions === null) return tokens;
  const positions = embed(step, weights.positions, batch.sequences.positions);
  const rows = add(step, tokens, positions);
  for (const tensor of [tokens, positions]) step.free(tensor);
  return rows;
}

/** What a norm keeps for its gradient: statistics of each row, [R] each. */
export type NormStatistics = readonly Tensor[];

/** The normalised rows, and what the gradient needs. */
export function norm(
  step: Step,
  config: DecoderConfig,
  x: Tensor,
  { weight, bias }: NormWeights<Tensor>,
): { readonly y: Tensor; readonly statistics: NormStatistics } {
  const { epsilon } = config.norm;
  if (bias) {
    const { y, mean, rstd } = layerNorm(step, x, weight, bias, epsilon);
    return { y, statistics: [mean, rstd] };
  }
  const { y, rstd } = rmsNorm(step, x, weight, epsilon);
  return { y, statistics: [rstd] };
}

/** dx of `norm`, plus `residual`, the gradient that reached x past it. */
export function normInputGradient(
  step: Step,
  dy: Tensor,
  x: Tensor,
  { weight, bias }: NormWeights<Tensor>,
  statistics: NormStatistics,
  residual: Tensor | null,
): Tensor {
  if (!bias) return rmsNormGradient(step, dy, x, weight, statistics[0], null, residual);
  const [mean, rstd] = statistics;
  return layerNormGradient(step, dy, x, weight, { mean, rstd }, null, residual);
}

/** x W^T + b, plus `residual`, what bypasses the layer. */
export function project(
  step: Step,
  config: DecoderConfig,
  x: Tensor,
  { weight, bias }: LinearWeights<Tensor>,
  residual: Tensor | null = null,
): Tensor {
  return (config.linear === "out-in" ? linear : conv1d)(step, x, weight, bias, { residual });
}

/** dx = dy W of `project`. */
export function projectInputGradient(
  step: Step,
  config: DecoderConfig,
  dy: Tensor,
  { weight }: LinearWeights<Tensor>,
): Tensor {
  return (config.linear === "out-in" ? linearInputGradient : conv1dInputGradient)(step, dy, weight);
}

/**
 * `project` of the normalised rows of x [R, d], and the norm's statistics: on tensor cores in one go, and the normalised
 * rows lie nowhere.
 */
export function projectNormed(
  step: Step,
  config: DecoderConfig,
  x: Tensor,
  { weight, bias }: NormWeights<Tensor>,
  layer: LinearWeights<Tensor>,
): { readonly y: Tensor; readonly statistics: NormStatistics } {
  const rows = x.size / config.hiddenSize;
  const fused = fusedWeight(step, layer.weight, rows, config.linear === "out-in");
  if (!fused) {
    const { y, statistics } = norm(step, config, x, { weight, bias });
    const projected = project(step, config, y, layer);
    step.free(y);
    return { y: projected, statistics };
  }
  const { epsilon: eps } = config.norm;
  const rstd = step.tensor([rows]);
  if (!bias) {
    const source = { form: "rmsNorm", a: x, weight, eps, rstd } as const;
    return { y: fusedLinear(step, source, rows, fused, layer), statistics: [rstd] };
  }
  const mean = step.tensor([rows]);
  const source = { form: "layerNorm", a: x, weight, bias, eps, mean, rstd } as const;
  return { y: fusedLinear(step, source, rows, fused, layer), statistics: [mean, rstd] };
}

/** `project` of `activate`'s result, plus `residual`; on tensor cores that result lies nowhere. */
export function projectActivated(
  step: Step,
  config: DecoderConfig,
  up: Tensor,
  layer: LinearWeights<Tensor>,
  residual: Tensor,
): Tensor {
  const [rows] = up.shape;
  const fused = fusedWeight(step, layer.weight, rows, config.linear === "out-in");
  if (fused) {
    const { bias } = layer;
    return fusedLinear(step, { form: config.mlp, a: up }, rows, fused, { bias, residual });
  }
  const activated = activate(step, config, up);
  const y = project(step, config, activated, layer, residual);
  step.free(activated);
  return y;
}

/**
 * The gradient of activation(x W^T + b) at x, given dy at the activation's result and `up` = x W^T + b; on tensor cores
 * the gradient at `up` lies nowhere.
 */
export function activatedInputGradient(
  step: Step,
  config: DecoderConfig,
  dy: Tensor,
  up: Tensor,
  layer: LinearWeights<Tensor>,
): Tensor {
  const [rows] = up.shape;
  const fused = fusedWeight(step, layer.weight, rows, config.linear !== "out-in");
  if (fused) return fusedLinear(step, { form: `${config.mlp}Gradient`, a: up, gradient: dy }, rows, fused);
  const dUp = activateGradient(step, config, dy, up);
  const dx = projectInputGradient(step, config, dUp, layer);
  step.free(dUp);
  return dx;
}

/** The MLP's activation of up's output: [T, 2F] or [T, F] to [T, F]. */
export function activate(step: Step, config: DecoderConfig, up: Tensor): Tensor {
  return config.mlp === "swiglu" ? swiglu(step, up) : gelu(step, up, "tanh");
}

/** The gradient of `activate` at `up`. */
export function activateGradient(step: Step, config: DecoderConfig, dy: Tensor, up: Tensor): Tensor {
  return config.mlp === "swiglu" ? swigluGradient(step, dy, up) : geluGradient(step, dy, up, "tanh");
}
