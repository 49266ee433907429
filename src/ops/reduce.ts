import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { inGroups } from "./groups.ts";
import { rowGrid } from "./row-grid.ts";
import { windowsOf } from "./windows.ts";

/** Fewest rows that a block of a two-stage column sum takes, and the most blocks. */
const LEAST_BLOCK_ROWS = 64;
const MOST_BLOCKS = 64;

/**
 * How a sum over `rows` rows is split into blocks: one block for few rows (one dispatch), else at most 64, whose sums
 * are added in a second stage.
 */
export function rowBlocks(rows: number): { blocks: number; blockRows: number } {
  if (rows <= 4 * LEAST_BLOCK_ROWS) return { blocks: 1, blockRows: Math.max(1, rows) };
  const blockRows = Math.max(LEAST_BLOCK_ROWS, Math.ceil(rows / MOST_BLOCKS));
  return { blocks: Math.ceil(rows / blockRows), blockRows };
}

/**
 * out[j] (+)= sum_r x[r, j]: the gradient of a bias. x [R, D] with D = out.size (the axes before it are flattened);
 * out [D] is overwritten, or added to when `accumulate`. No rows sum to zero.
 */
export function columnSum(step: Step, x: Tensor, out: Tensor, accumulate: boolean): void {
  const width = out.size;
  const rows = width ? x.size / width : 0;
  const { blocks, blockRows } = rowBlocks(rows);
  const { kernel, group } = inGroups(kernels.column_sum, width);
  const stage = (from: Tensor, to: Tensor, rows: number, blocks: number, blockRows: number, add: boolean) =>
    step.run(kernel, {
      bindings: { x: from, out: to },
      params: { rows, width: width / group, block_rows: blockRows },
      overrides: { ACCUMULATE: add },
      workgroups: [Math.ceil(width / group / 64), blocks],
      cost: { flops: rows * width, bytes: 4 * (rows + blocks) * width },
    });
  if (blocks === 1) {
    stage(x, out, rows, 1, blockRows, accumulate);
    return;
  }
  const partial = step.tensor([blocks, width]);
  stage(x, partial, rows, blocks, blockRows, false);
  stage(partial, out, blocks, 1, blocks, accumulate);
  step.free(partial);
}

/** Elements that one workgroup of the first stage adds at least, and the most workgroups it is spread over. */
const LEAST_CHUNK = 4096;
const MOST_CHUNKS = 1024;

/** The sum over all tensors of the elements, or of their squares; of the latter the root if asked. Returns [1]. */
function total(step: Step, tensors: readonly Tensor[], squared: boolean, root: boolean): Tensor {
  const flat = tensors.filter((x) => x.size > 0).map((x) => x.reshape([x.size]));
  const parts = flat.flatMap((x) => windowsOf(x, step.maxBindingBytes));
  const chunks = parts.map(({ tensor: { size } }) => {
    const chunk = Math.max(LEAST_CHUNK, Math.ceil(size / MOST_CHUNKS));
    return { size, chunk, groups: Math.ceil(size / chunk) };
  });
  const groups = chunks.reduce((count, { groups }) => count + groups, 0);
  const out = step.tensor([1]);
  const single = groups === 1;
  const partial = single ? out : step.tensor([Math.max(1, groups)]);
  let offset = 0;
  parts.forEach(({ tensor }, i) => {
    const { size, chunk, groups } = chunks[i];
    step.run(kernels.chunk_sum, {
      bindings: { x: tensor, out: partial },
      params: { count: size, chunk, out_offset: offset },
      overrides: { SQUARED: squared, ROOT: root && single },
      workgroups: [groups],
      cost: { flops: 2 * size, bytes: 4 * size },
    });
    offset += groups;
  });
  if (single) return out;
  step.run(kernels.chunk_sum, {
    bindings: { x: partial, out },
    params: { count: groups, chunk: groups, out_offset: 0 },
    overrides: { SQUARED: false, ROOT: root },
    workgroups: [1],
  });
  step.free(partial);
  return out;
}

/** sum_i x[i] as a tensor [1]. The order of the sum is fixed. */
export function sum(step: Step, x: Tensor): Tensor {
  return total(step, [x], false, false);
}

/** sum_i x[i]^2 as a tensor [1]. */
export function sumSquares(step: Step, x: Tensor): Tensor {
  return total(step, [x], true, false);
}

/** sqrt(sum_i x[i]^2), the Euclidean norm over all the given tensors together, as a tensor [1]. */
export function norm(step: Step, tensors: readonly Tensor[]): Tensor {
  return total(step, tensors, true, true);
}

/**
 * Sums the rows of each segment: y[s] = sum_i x[i] over i in [starts[s], starts[s + 1]). x [T, D]; starts u32 [S + 1]
 * (the cu_seqlens of packed sequences). Returns [S, D]; an empty segment gives zeros.
 */
export function segmentSum(step: Step, x: Tensor, starts: Tensor): Tensor {
  const [, width] = x.shape;
  const segments = starts.size - 1;
  const y = step.tensor([segments, width]);
  const { kernel, group } = inGroups(kernels.segment_sum, width);
  const grid = rowGrid(segments, width / group);
  step.run(kernel, {
    bindings: { x, starts, order: starts, target_row: starts, out: y },
    params: { segments, width: width / group, first_segment: 0, first_row: 0, ...grid.params },
    overrides: { ORDERED: false, TARGETED: false, ACCUMULATE: false },
    workgroups: grid.workgroups,
    cost: { flops: x.size, bytes: 4 * (x.size + y.size) },
  });
  return y;
}
