import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";

/**
 * Rows divided by their Euclidean norms, so that a dot product is the cosine of section 5: y = x * rsqrt(sum of
 * squares). x [R, d]; returns y [R, d] and norm [R]. A row with a norm below 1e-12 counts as zero: its y and its norm
 * are 0, and so is its gradient.
 */
export function normalizeRows(step: Step, x: Tensor): { y: Tensor; norm: Tensor } {
  const width = x.shape[x.shape.length - 1];
  const rows = x.size / width;
  const y = step.tensor(x.shape);
  const norm = step.tensor([rows]);
  step.run(kernels.normalize_rows, {
    bindings: { x, y, norm },
    params: { rows, width },
    workgroups: gridOf(rows),
    cost: { flops: 3 * x.size, bytes: 8 * x.size },
  });
  return { y, norm };
}

/** dx = (dy - y (y . dy)) / norm, row by row, from the results of `normalizeRows`. dy, y [R, d]; returns dx [R, d]. */
export function normalizeRowsGradient(step: Step, dy: Tensor, y: Tensor, norm: Tensor): Tensor {
  const width = y.shape[y.shape.length - 1];
  const rows = y.size / width;
  const dx = step.tensor(y.shape);
  step.run(kernels.normalize_rows_gradient, {
    bindings: { dy, y, norm, dx },
    params: { rows, width },
    workgroups: gridOf(rows),
    cost: { flops: 5 * y.size, bytes: 12 * y.size },
  });
  return dx;
}
