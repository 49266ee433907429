import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { selectExpertsGradient } from "./experts.ts";
import { segmentSum } from "./reduce.ts";

/** Which expert each of S sequences of L rows uses. */
export interface ExpertSequences {
  /** u32, S elements: the expert of each sequence, as the router chose. */
  readonly top: Tensor;
  /** L. */
  readonly rows: number;
  /** Sequences s with the same floor(s / share) read the same rows of x: a user's k experts, or 1. */
  readonly share: number;
}

/** Experts, outputs and inputs of stacked weights [K * N, D], of which every expert has N rows. */
function extents(weight: Tensor, bias: Tensor, outputs: number) {
  const [stacked, inputs] = weight.shape;
  const experts = stacked / outputs;
  if (!Number.isInteger(experts) || bias.size !== stacked)
    throw new Error(`[${weight.shape}] and [${bias.shape}] are not experts of ${outputs} outputs`);
  return { experts, inputs };
}

function check(x: Tensor, { top, rows, share }: ExpertSequences, width: number): void {
  if (x.size * share !== top.size * rows * width)
    throw new Error(`[${x.shape}] is not ${top.size} / ${share} sequences of ${rows} rows of ${width}`);
}

const tiles = (rows: number, columns: number, sequences: number): [number, number, number] => [
  Math.ceil(columns / 64),
  Math.ceil(rows / 32),
  sequences,
];

/**
 * A linear layer whose weights depend on the sequence: y[s] = x[s / share] W_e^T + b_e with e = top[s]. x
 * [S / share * L, D], weight [K * N, D] and bias [K * N] are the experts' one after another; returns [S * L, N].
 */
export function expertLinear(
  step: Step,
  x: Tensor,
  weight: Tensor,
  bias: Tensor,
  outputs: number,
  sequences: ExpertSequences,
): Tensor {
  const { inputs } = extents(weight, bias, outputs);
  check(x, sequences, inputs);
  const { top, rows, share } = sequences;
  const y = step.tensor([top.size * rows, outputs]);
  step.run(kernels.expert_product, {
    bindings: { a: x, b: weight, bias, top, c: y },
    params: { rows, columns: outputs, depth: inputs, slots: 1, share },
    overrides: { TRANSPOSE_B: true, BIAS: true },
    workgroups: tiles(rows, outputs, top.size),
    cost: { flops: 2 * y.size * inputs, bytes: 4 * (x.size + weight.size + y.size) },
  });
  return y;
}

/** dx of `expertLinear`: dx[u] = the sum over the sequences s that read u of dy[s] W_e. dy [S * L, N]; dx as x. */
export function expertLinearInputGradient(
  step: Step,
  dy: Tensor,
  weight: Tensor,
  { top, rows, share }: ExpertSequences,
): Tensor {
  const outputs = dy.size / (top.size * rows);
  const [, inputs] = weight.shape;
  const dx = step.tensor([(top.size / share) * rows, inputs]);
  step.run(kernels.expert_product, {
    bindings: { a: dy, b: weight, bias: weight, top, c: dx },
    params: { rows, columns: inputs, depth: outputs, slots: share, share: 1 },
    overrides: { TRANSPOSE_B: false, BIAS: false },
    workgroups: tiles(rows, inputs, top.size / share),
    cost: { flops: 2 * dy.size * inputs, bytes: 4 * (dy.size + weight.size + dx.size) },
  });
  return dx;
}

/**
 * Weight and bias gradients of `expertLinear`: of every expert over the sequences that used it, zeros for one that
 * none used. dy [S * L, N], x as forward; dWeight and dBias are overwritten, or added to when `accumulate`.
 */
export function expertLinearWeightGradient(
  step: Step,
  dy: Tensor,
  x: Tensor,
  into: { readonly dWeight: Tensor; readonly dBias: Tensor; readonly accumulate: boolean },
  sequences: ExpertSequences,
): void {
  const { top, rows, share } = sequences;
  const { dWeight, dBias, accumulate } = into;
  const outputs = dy.size / (top.size * rows);
  const { experts, inputs } = extents(dWeight, dBias, outputs);
  check(x, sequences, inputs);
  step.run(kernels.expert_weight_gradient, {
    bindings: { dy, x, top, dw: dWeight },
    params: { sequences: top.size, rows, outputs, inputs, share },
    overrides: { ACCUMULATE: accumulate },
    workgroups: [Math.ceil(inputs / 64), Math.ceil(outputs / 64), experts],
    cost: { flops: 2 * dy.size * inputs, bytes: 4 * (dy.size + x.size + dWeight.size) },
  });
  const starts = step.upload(Uint32Array.from({ length: top.size + 1 }, (_, s) => s * rows));
  const sums = segmentSum(step, dy, starts);
  selectExpertsGradient(step, sums, top, dBias.reshape([experts, 1, outputs]), accumulate);
  step.free(sums);
}
