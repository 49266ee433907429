import { gridOf } from "../gpu/grid.ts";
import type { Kernel } from "../gpu/kernel.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { inGroups } from "./groups.ts";
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
 * elements to add. Where lanes gain nothing by reading neighbours (Gpu.sharedSubgroup), one a row needs no barrier.
 */
function lanesFor(step: Step, width: number): number {
  if (step.sharedSubgroup) return 1;
  if (width <= 256) return 8;
  return width <= 1024 ? 16 : 32;
}

/** What the kernels of a normalisation over the last axis, of w.size elements, are run with. */
function rowsOf<K extends Kernel>(step: Step, all: K, x: Tensor, w: Tensor) {
  const width = w.size;
  const rows = x.size / width;
  const LANES = lanesFor(step, width);
  const { kernel, group } = inGroups(all, width);
  const params = { rows, width: width / group };
  return { kernel, rows, params, LANES, workgroups: gridOf(Math.ceil((rows * LANES) / 64)) };
}

/** The same of a weight gradient: rows in blocks, whose sums are added up by `columnSum` when there are several. */
function blocksOf<K extends Kernel>(all: K, x: Tensor, w: Tensor) {
  const width = w.size;
  const rows = x.size / width;
  const { kernel, group } = inGroups(all, width);
  const { blocks, blockRows } = rowBlocks(rows);
  const params = { rows, width: width / group, block_rows: blockRows };
  const workgroups: [number, number] = [Math.ceil(width / group / 64), blocks];
  return { kernel, params, workgroups, partialShape: blocks === 1 ? null : [blocks, width] };
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
  const { kernel, rows, params, LANES, workgroups } = rowsOf(step, kernels.layer_norm_forward, x, w);
  const y = step.tensor(x.shape);
  const mean = step.tensor([rows]);
  const rstd = step.tensor([rows]);
  step.run(kernel, {
    bindings: { x, w, b, y, mean, rstd },
    params: { ...params, eps },
    overrides: { LANES },
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
  const { kernel, params, LANES, workgroups } = rowsOf(step, kernels.layer_norm_gradient, x, w);
  const dx = step.tensor(x.shape);
  step.run(kernel, {
    bindings: { dy, x, w, mean, rstd, residual: residual ?? dy, dx },
    params,
    overrides: { RESIDUAL: residual !== null, LANES },
    workgroups,
    cost: { flops: 13 * x.size, bytes: 12 * x.size },
  });
  if (into) {
    const sums = blocksOf(kernels.layer_norm_weight_gradient, x, w);
    const { partialShape } = sums;
    const dw = partialShape ? step.tensor(partialShape) : into.dw;
    const db = partialShape ? step.tensor(partialShape) : into.db;
    step.run(sums.kernel, {
      bindings: { dy, x, mean, rstd, dw, db },
      params: sums.params,
      overrides: { ACCUMULATE: !partialShape && into.accumulate },
      workgroups: sums.workgroups,
      cost: { flops: 5 * x.size, bytes: 8 * x.size },
    });
    if (partialShape) {
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
  const { kernel, rows, params, LANES, workgroups } = rowsOf(step, kernels.rms_norm_forward, x, w);
  const y = step.tensor(x.shape);
  const rstd = step.tensor([rows]);
  step.run(kernel, {
    bindings: { x, w, y, rstd },
    params: { ...params, eps },
    overrides: { LANES },
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
  const { kernel, params, LANES, workgroups } = rowsOf(step, kernels.rms_norm_gradient, x, w);
  const dx = step.tensor(x.shape);
  step.run(kernel, {
    bindings: { dy, x, w, rstd, residual: residual ?? dy, dx },
    params,
    overrides: { RESIDUAL: residual !== null, LANES },
    workgroups,
    cost: { flops: 10 * x.size, bytes: 12 * x.size },
  });
  if (into) {
    const sums = blocksOf(kernels.rms_norm_weight_gradient, x, w);
    const { partialShape } = sums;
    const dw = partialShape ? step.tensor(partialShape) : into.dw;
    step.run(sums.kernel, {
      bindings: { dy, x, rstd, dw },
      params: sums.params,
      overrides: { ACCUMULATE: !partialShape && into.accumulate },
      workgroups: sums.workgroups,
      cost: { flops: 3 * x.size, bytes: 8 * x.size },
    });
    if (partialShape) {
      columnSum(step, dw, into.dw, into.accumulate);
      step.free(dw);
    }
  }
  return dx;
}
