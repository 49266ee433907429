import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { columnSum, rowBlocks } from "./reduce.ts";

/** Where the gradients of a normalisation's weight (and bias) go: overwritten, or added to when `accumulate`. */
export interface NormWeightGradients {
  readonly dw: Tensor;
  readonly db: Tensor;
  readonly accumulate: boolean;
}

/** What layerNorm keeps for its gradient: mean and 1 / standard deviation of each row, [R]. */
export interface LayerNormStatistics {
  readonly mean: Tensor;
  readonly rstd: Tensor;
}

/**
 * Lanes that share a row. Few for narrow rows: one barrier then serves many rows, and a lane still has several
 * elements to add.
 */
function lanesFor(width: number): number {
  if (width <= 256) return 8;
  return width <= 1024 ? 16 : 32;
}

/** The shape of a normalisation over the last axis, of w.size elements, and its grid. */
function rowsOf(x: Tensor, w: Tensor) {
  const width = w.size;
  const rows = x.size / width;
  const lanes = lanesFor(width);
  return { rows, width, lanes, workgroups: gridOf(Math.ceil((rows * lanes) / 64)) };
}

/**
 * Layer normalisation over the last axis: y = (x - mean) / sqrt(variance + eps) * w + b, the variance biased (divided
 * by D). x [R, D] (leading axes are flattened), w and b [D].
 */
export function layerNorm(
  step: Step,
  x: Tensor,
  w: Tensor,
  b: Tensor,
  eps: number,
): LayerNormStatistics & { readonly y: Tensor } {
  const { rows, width, lanes, workgroups } = rowsOf(x, w);
  const y = step.tensor(x.shape);
  const mean = step.tensor([rows]);
  const rstd = step.tensor([rows]);
  step.run(kernels.layer_norm_forward, {
    bindings: { x, w, b, y, mean, rstd },
    params: { rows, width, eps, lanes },
    workgroups,
    cost: { flops: 8 * x.size, bytes: 8 * x.size },
  });
  return { y, mean, rstd };
}

/**
 * The gradients of `layerNorm`. Returns dx (plus `residual`, the gradient that reached x past the normalisation, when
 * given); writes dw and db [D] unless `into` is null.
 */
export function layerNormGradient(
  step: Step,
  dy: Tensor,
  x: Tensor,
  w: Tensor,
  { mean, rstd }: LayerNormStatistics,
  into: NormWeightGradients | null,
  residual: Tensor | null = null,
): Tensor {
  const { rows, width, lanes, workgroups } = rowsOf(x, w);
  const dx = step.tensor(x.shape);
  step.run(kernels.layer_norm_gradient, {
    bindings: { dy, x, w, mean, rstd, residual: residual ?? dy, dx },
    params: { rows, width, lanes },
    overrides: { RESIDUAL: residual !== null },
    workgroups,
    cost: { flops: 13 * x.size, bytes: 12 * x.size },
  });
  if (into) {
    const { blocks, blockRows } = rowBlocks(rows);
    const single = blocks === 1;
    const dw = single ? into.dw : step.tensor([blocks, width]);
    const db = single ? into.db : step.tensor([blocks, width]);
    step.run(kernels.layer_norm_weight_gradient, {
      bindings: { dy, x, mean, rstd, dw, db },
      params: { rows, width, block_rows: blockRows },
      overrides: { ACCUMULATE: single && into.accumulate },
      workgroups: [Math.ceil(width / 64), blocks],
      cost: { flops: 5 * x.size, bytes: 8 * x.size },
    });
    if (!single) {
      columnSum(step, dw, into.dw, into.accumulate);
      columnSum(step, db, into.db, into.accumulate);
      step.free(dw);
      step.free(db);
    }
  }
  return dx;
}

/**
 * RMS normalisation over the last axis: y = x / sqrt(mean(x^2) + eps) * w. x [R, D] (leading axes are flattened),
 * w [D]; rstd [R] is kept for the gradient.
 */
export function rmsNorm(
  step: Step,
  x: Tensor,
  w: Tensor,
  eps: number,
): { readonly y: Tensor; readonly rstd: Tensor } {
  const { rows, width, lanes, workgroups } = rowsOf(x, w);
  const y = step.tensor(x.shape);
  const rstd = step.tensor([rows]);
  step.run(kernels.rms_norm_forward, {
    bindings: { x, w, y, rstd },
    params: { rows, width, eps, lanes },
    workgroups,
    cost: { flops: 4 * x.size, bytes: 8 * x.size },
  });
  return { y, rstd };
}

/**
 * The gradients of `rmsNorm`. Returns dx (plus `residual`, the gradient that reached x past the normalisation, when
 * given); writes dw [D] unless `into` is null (frozen weights).
 */
export function rmsNormGradient(
  step: Step,
  dy: Tensor,
  x: Tensor,
  w: Tensor,
  rstd: Tensor,
  into: Omit<NormWeightGradients, "db"> | null,
  residual: Tensor | null = null,
): Tensor {
  const { rows, width, lanes, workgroups } = rowsOf(x, w);
  const dx = step.tensor(x.shape);
  step.run(kernels.rms_norm_gradient, {
    bindings: { dy, x, w, rstd, residual: residual ?? dy, dx },
    params: { rows, width, lanes },
    overrides: { RESIDUAL: residual !== null },
    workgroups,
    cost: { flops: 10 * x.size, bytes: 12 * x.size },
  });
  if (into) {
    const { blocks, blockRows } = rowBlocks(rows);
    const single = blocks === 1;
    const dw = single ? into.dw : step.tensor([blocks, width]);
    step.run(kernels.rms_norm_weight_gradient, {
      bindings: { dy, x, rstd, dw },
      params: { rows, width, block_rows: blockRows },
      overrides: { ACCUMULATE: single && into.accumulate },
      workgroups: [Math.ceil(width / 64), blocks],
      cost: { flops: 3 * x.size, bytes: 8 * x.size },
    });
    if (!single) {
      columnSum(step, dw, into.dw, into.accumulate);
      step.free(dw);
    }
  }
  return dx;
}
