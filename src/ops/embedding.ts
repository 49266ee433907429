import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import { rowBytes, type Tensor } from "../gpu/tensor.ts";
import { variantOf, withWeights } from "../gpu/variant.ts";
import { weightGroups } from "../gpu/variants.ts";
import { inGroups } from "./groups.ts";
import { rowGrid } from "./row-grid.ts";
import { windowsOf } from "./windows.ts";

/** The two top bits of a source word of `embedPrompt`: a row of the prefix, or of the suffix; without, a token id. */
export const PREFIX_ROW = 0x40000000;
export const SUFFIX_ROW = 0x80000000;

/**
 * Rows of an embedding table: y[t] = table[ids[t]]. table [V, D] in any storage of weights and of any size
 * (past the binding limit it is taken in windows), ids u32 [T]; returns [T, D]. An id of V or more gives a row of NaN.
 */
export function embed(step: Step, table: Tensor, ids: Tensor): Tensor {
  return embedPrompt(step, table, ids, null, null);
}

/**
 * The input embeddings of a prompt with virtual tokens (Eq. 1): y[t] is the token embedding of id source[t], or row
 * source[t] - PREFIX_ROW of `prefix` [P, D], or row source[t] - SUFFIX_ROW of `suffix` [s, D]. table [V, D] in any
 * storage of weights; returns [T, D]. A row that its table does not have is NaN.
 */
export function embedPrompt(
  step: Step,
  table: Tensor,
  source: Tensor,
  prefix: Tensor | null,
  suffix: Tensor | null,
): Tensor {
  const [vocabulary, width] = table.shape;
  const rows = source.size;
  const group = width % 4 === 0 ? 4 : 1;
  const kernel =
    group === 4
      ? variantOf(kernels.embed, weightGroups(table.dtype))
      : withWeights(kernels.embed, table.dtype);
  const grid = rowGrid(rows, width / group);
  const y = step.tensor([rows, width]);
  const none = step.tensor([4]);
  for (const { from, to, tensor } of windowsOf(table, step.maxBindingBytes)) {
    step.run(kernel, {
      bindings: { source, weights: tensor, prefix: prefix ?? none, suffix: suffix ?? none, y },
      params: {
        rows,
        width: width / group,
        first_row: from,
        end_row: to,
        vocabulary,
        prefix_rows: prefix ? prefix.size / width : 0,
        suffix_rows: suffix ? suffix.size / width : 0,
        missing: Number.NaN,
        ...grid.params,
      },
      workgroups: grid.workgroups,
      cost: { bytes: 4 * rows * width + rows * rowBytes(width, table.dtype) },
    });
  }
  step.free(none);
  return y;
}

/** y[i] = x[rows[i]]. x [T, D], rows u32 [n] below T; returns [n, D]. */
export function gatherRows(step: Step, x: Tensor, rows: Tensor): Tensor {
  const [, width] = x.shape;
  const count = rows.size;
  const { kernel, group } = inGroups(kernels.gather_rows, width);
  const grid = rowGrid(count, width / group);
  const y = step.tensor([count, width]);
  step.run(kernel, {
    bindings: { x, rows, y },
    params: { count, width: width / group, ...grid.params },
    workgroups: grid.workgroups,
    cost: { bytes: 8 * count * width },
  });
  return y;
}

/**
 * The gradient of `gatherRows` when all rows differ: returns [total, D] with dy[i] in row rows[i] and zeros elsewhere.
 * dy [n, D], rows u32 [n] below `total`. With a repeated row one of its gradients would be lost: use embeddingGradient.
 */
export function scatterRows(step: Step, dy: Tensor, rows: Tensor, total: number): Tensor {
  const [, width] = dy.shape;
  const count = rows.size;
  const { kernel, group } = inGroups(kernels.scatter_rows, width);
  const grid = rowGrid(count, width / group);
  const dx = step.tensor([total, width]);
  step.zero(dx);
  step.run(kernel, {
    bindings: { x: dy, rows, y: dx },
    params: { count, width: width / group, ...grid.params },
    workgroups: grid.workgroups,
    cost: { bytes: 8 * count * width + 4 * total * width },
  });
  return dx;
}

/** Rows of one id that a lane adds at most, before the sums of such pieces are added in a second stage. */
const LONGEST_SEGMENT = 128;

/**
 * The gradient of `embed` with respect to its table: dTable[v] (+)= sum of dy[t] over ids[t] = v. dy [T, D]; dTable
 * [V, D]; ids are on the host, where they are sorted, so that each id's rows are added in one fixed order without
 * atomics. Rows of ids that do not occur are not touched, and rows of those that do are overwritten unless
 * `accumulate`: to start from nothing, zero dTable first.
 */
export function embeddingGradient(
  step: Step,
  dy: Tensor,
  ids: Uint32Array,
  dTable: Tensor,
  accumulate: boolean,
): void {
  const [vocabulary] = dTable.shape;
  // Keys id * 2^32 + position are exact in float64 (ids stay below 2^21 for any table in one buffer of f32 rows).
  const keys = Float64Array.from(ids, (id, t) => id * 2 ** 32 + t).sort();
  const order = new Uint32Array(ids.length);
  const distinct: number[] = [];
  /** First entries of the segments in `order`, and for each id its first segment. */
  const starts: number[] = [];
  const segmentsOf: number[] = [];
  let run = 0;
  keys.forEach((key, i) => {
    const id = Math.floor(key / 2 ** 32);
    if (id >= vocabulary) throw new Error(`id ${id} in the gradient of a table with ${vocabulary} rows`);
    order[i] = key % 2 ** 32;
    const fresh = distinct.length === 0 || distinct[distinct.length - 1] !== id;
    if (fresh) {
      distinct.push(id);
      segmentsOf.push(starts.length);
    }
    run = fresh || run === LONGEST_SEGMENT ? 1 : run + 1;
    if (run === 1) starts.push(i);
  });
  if (distinct.length === 0) return;
  const segments = starts.length;
  starts.push(ids.length);
  segmentsOf.push(segments);
  const orderTensor = step.upload(order);
  const startsTensor = step.upload(Uint32Array.from(starts));
  const single = segments === distinct.length;
  if (single) {
    toTable(step, dy, startsTensor, orderTensor, distinct, dTable, accumulate);
    return;
  }
  const [, width] = dTable.shape;
  const partial = step.tensor([segments, width]);
  const { kernel, group } = inGroups(kernels.segment_sum, width);
  const grid = rowGrid(segments, width / group);
  step.run(kernel, {
    bindings: { x: dy, starts: startsTensor, order: orderTensor, target_row: startsTensor, out: partial },
    params: { segments, width: width / group, first_segment: 0, first_row: 0, ...grid.params },
    overrides: { ORDERED: true, TARGETED: false, ACCUMULATE: false },
    workgroups: grid.workgroups,
    cost: { flops: dy.size, bytes: 4 * dy.size },
  });
  toTable(step, partial, step.upload(Uint32Array.from(segmentsOf)), null, distinct, dTable, accumulate);
  step.free(partial);
}

/** dTable[ids[s]] (+)= the sum of the rows of segment s of x, ids ascending; windows past the binding limit. */
function toTable(
  step: Step,
  x: Tensor,
  starts: Tensor,
  order: Tensor | null,
  ids: readonly number[],
  dTable: Tensor,
  accumulate: boolean,
): void {
  const [, width] = dTable.shape;
  const { kernel, group } = inGroups(kernels.segment_sum, width);
  const targets = step.upload(Uint32Array.from(ids));
  let segment = 0;
  for (const { from, to, tensor } of windowsOf(dTable, step.maxBindingBytes)) {
    const first = segment;
    while (segment < ids.length && ids[segment] < to) segment++;
    const grid = rowGrid(segment - first, width / group);
    const added = (x.size * (segment - first)) / ids.length;
    const written = (segment - first) * width * (accumulate ? 2 : 1);
    step.run(kernel, {
      bindings: { x, starts, order: order ?? starts, target_row: targets, out: tensor },
      params: {
        segments: segment - first,
        width: width / group,
        first_segment: first,
        first_row: from,
        ...grid.params,
      },
      overrides: { ORDERED: order !== null, TARGETED: true, ACCUMULATE: accumulate },
      workgroups: grid.workgroups,
      cost: { flops: added, bytes: 4 * (added + written) },
    });
  }
}
