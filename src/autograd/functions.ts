/**
 * The differentiable operations: each computes its value with an op of src/ops and records how its gradient flows.
 * Parameters receive their gradient in place (Parameter.grad); variables through Tape.give.
 */
import type { Tensor } from "../gpu/tensor.ts";
import {
  geluGradient,
  gelu as geluOp,
  reluGradient,
  relu as reluOp,
  swigluGradient,
  swiglu as swigluOp,
} from "../ops/activation.ts";
import { type AggregateShape, aggregateGradient, aggregate as aggregateOp } from "../ops/aggregate.ts";
import { selfAttention as attentionOp, selfAttentionGradient } from "../ops/attention.ts";
import {
  crossAttentionGradient,
  crossAttention as crossAttentionOp,
  type RaggedKeys,
} from "../ops/cross-attention.ts";
import { dropout as dropoutOp } from "../ops/dropout.ts";
import { add as addOp } from "../ops/elementwise.ts";
import { embed, embeddingGradient, gatherRows as gatherOp, scatterRows } from "../ops/embedding.ts";
import {
  type ExpertSequences,
  expertLinearInputGradient,
  expertLinear as expertLinearOp,
  expertLinearWeightGradient,
} from "../ops/expert-linear.ts";
import { linearInputGradient, linear as linearOp, linearWeightGradient } from "../ops/linear.ts";
import {
  layerNormGradient,
  layerNorm as layerNormOp,
  rmsNormGradient,
  rmsNorm as rmsNormOp,
} from "../ops/norm.ts";
import type { Packed } from "../ops/packed.ts";
import { columnSum, segmentSum } from "../ops/reduce.ts";
import { type Rotation, rope } from "../ops/rope.ts";
import { whole } from "../ops/strided.ts";
import type { Parameter } from "./parameters.ts";
import { Tape, type Variable } from "./tape.ts";

/** Notes that a gradient has been written, and tells whether it must add to one that is there. */
function accumulates(parameter: Parameter): boolean {
  const adds = !parameter.fresh;
  parameter.fresh = false;
  return adds;
}

/** y = x W^T + b. x [M, K], W [N, K], b [N] or null; on tensor cores where the parameters' `half` allows it. */
export function linear(tape: Tape, x: Variable, weight: Parameter, bias: Parameter | null): Variable {
  const { step } = tape;
  const { half } = weight;
  const y = linearOp(step, x.value, weight.value, bias?.value ?? null, { half });
  return tape.result(y, [x, Tape.TRAINABLE], [], (dy) => {
    linearWeightGradient(step, dy, x.value, weight.grad, accumulates(weight), half);
    if (bias) columnSum(step, dy, bias.grad, accumulates(bias));
    if (x.needsGrad) tape.give(x, linearInputGradient(step, dy, weight.value, { half }));
  });
}

/**
 * A linear layer with weights of its own for every expert: sequence s of L rows goes through expert top[s]. x
 * [S / share * L, D], weight [K * N, D] and bias [K * N] of K experts; returns [S * L, N].
 */
export function expertLinear(
  tape: Tape,
  x: Variable,
  weight: Parameter,
  bias: Parameter,
  outputs: number,
  sequences: ExpertSequences,
): Variable {
  const { step } = tape;
  const y = expertLinearOp(step, x.value, weight.value, bias.value, outputs, sequences);
  return tape.result(y, [x, Tape.TRAINABLE], [], (dy) => {
    // Weight and bias are always declared together, so one flag serves both.
    accumulates(bias);
    const into = { dWeight: weight.grad, dBias: bias.grad, accumulate: accumulates(weight) };
    expertLinearWeightGradient(step, dy, x.value, into, sequences);
    if (x.needsGrad) tape.give(x, expertLinearInputGradient(step, dy, weight.value, sequences));
  });
}

/** out[b] = sum_j gates[b, j] x[b, j], j over the k active experts of a user. x [B * k * L, D], gates [B, k]. */
export function aggregate(tape: Tape, x: Variable, gates: Variable, shape: AggregateShape): Variable {
  const { step } = tape;
  return tape.result(aggregateOp(step, x.value, gates.value, shape), [x, gates], [], (dOut) => {
    const { dq, dGates } = aggregateGradient(step, dOut, x.value, gates.value, shape);
    tape.give(x, dq);
    tape.give(gates, dGates);
  });
}

/** LayerNorm over the last axis. x [R, D], weight and bias [D]. */
export function layerNorm(
  tape: Tape,
  x: Variable,
  weight: Parameter,
  bias: Parameter,
  eps: number,
): Variable {
  const { step } = tape;
  const { y, mean, rstd } = layerNormOp(step, x.value, weight.value, bias.value, eps);
  return tape.result(y, [x, Tape.TRAINABLE], [mean, rstd], (dy) => {
    // Weight and bias are always declared together, so one flag serves both.
    accumulates(bias);
    const into = { dw: weight.grad, db: bias.grad, accumulate: accumulates(weight) };
    tape.give(x, layerNormGradient(step, dy, x.value, weight.value, { mean, rstd }, into));
  });
}

/** RMSNorm over the last axis. x [R, D], weight [D]. */
export function rmsNorm(tape: Tape, x: Variable, weight: Parameter, eps: number): Variable {
  const { step } = tape;
  const { y, rstd } = rmsNormOp(step, x.value, weight.value, eps);
  return tape.result(y, [x, Tape.TRAINABLE], [rstd], (dy) => {
    const into = { dw: weight.grad, accumulate: accumulates(weight) };
    tape.give(x, rmsNormGradient(step, dy, x.value, weight.value, rstd, into));
  });
}

/** a + b, equal shapes. */
export function add(tape: Tape, a: Variable, b: Variable): Variable {
  return tape.result(addOp(tape.step, a.value, b.value), [a, b], [], (dy) => {
    // The variable keeps the node's own gradient tensor: it has three holders until both inputs are done with it.
    tape.share(dy);
    tape.share(dy);
    tape.give(a, dy);
    tape.give(b, dy);
  });
}

/** GELU, exact (erf) or by tanh. */
export function gelu(tape: Tape, x: Variable, approximate: "tanh" | "none"): Variable {
  return tape.result(geluOp(tape.step, x.value, approximate), [x], [], (dy) => {
    tape.give(x, geluGradient(tape.step, dy, x.value, approximate));
  });
}

/** max(x, 0). */
export function relu(tape: Tape, x: Variable): Variable {
  const y = reluOp(tape.step, x.value);
  return tape.result(y, [x], [], (dy) => tape.give(x, reluGradient(tape.step, dy, y)));
}

/** silu(gate) * up, where x [T, 2F] holds gate | up. */
export function swiglu(tape: Tape, x: Variable): Variable {
  return tape.result(swigluOp(tape.step, x.value), [x], [], (dy) => {
    tape.give(x, swigluGradient(tape.step, dy, x.value));
  });
}

/** Inverted dropout with rate p, when the tape has a dropout key; the identity otherwise. */
export function dropout(tape: Tape, x: Variable, p: number): Variable {
  const key = tape.options.dropout;
  if (!key || p === 0) return x;
  const counter = { ...key, site: tape.nextSite() };
  return tape.result(dropoutOp(tape.step, x.value, p, counter), [x], [], (dy) => {
    tape.give(x, dropoutOp(tape.step, dy, p, counter));
  });
}

export interface AttentionShape {
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headSize: number;
  readonly causal: boolean;
  /** Rotary embedding of queries and keys, or none. */
  readonly rope?: Rotation;
}

/**
 * Self-attention of packed sequences. qkv [T, (H + 2G) h] holds query | key | value of every row; returns [T, H h].
 * With `rope`, queries and keys are rotated in place first (and their gradients rotated back).
 */
export function selfAttention(tape: Tape, qkv: Variable, sequences: Packed, shape: AttentionShape): Variable {
  const { step } = tape;
  const { heads, keyValueHeads, headSize } = shape;
  const stride = (heads + 2 * keyValueHeads) * headSize;
  const columns = (tensor: Tensor) => ({
    q: { tensor, offset: 0, stride },
    k: { tensor, offset: heads * headSize, stride },
    v: { tensor, offset: (heads + keyValueHeads) * headSize, stride },
  });
  const rotate = (tensor: Tensor, inverse: boolean) => {
    if (!shape.rope) return;
    const rotated = { ...shape.rope, heads: heads + keyValueHeads, headSize, stride, offset: 0, inverse };
    rope(step, tensor, sequences.positions, rotated);
  };
  rotate(qkv.value, false);
  const { o, lse } = attentionOp(step, columns(qkv.value), sequences, shape);
  return tape.result(o, [qkv], [lse], (dO) => {
    const dqkv = step.tensor([sequences.total, stride]);
    const { q, k, v } = columns(dqkv);
    const into = { dq: q, dk: k, dv: v };
    selfAttentionGradient(step, dO, o, lse, columns(qkv.value), sequences, shape, into);
    rotate(dqkv, true);
    tape.give(qkv, dqkv);
  });
}

/**
 * Cross-attention over ragged keys. q [S L, H h] are S query sequences of L rows; kv [sum N, 2 H h] holds key | value
 * rows of every user; `keys` says whose keys each query sequence reads. Returns [S L, H h].
 */
export function crossAttention(
  tape: Tape,
  q: Variable,
  kv: Variable,
  keys: RaggedKeys,
  shape: { readonly heads: number; readonly headSize: number; readonly queryLength: number },
): Variable {
  const { step } = tape;
  const width = shape.heads * shape.headSize;
  const columns = (queries: Tensor, memory: Tensor) => ({
    q: whole(queries),
    k: { tensor: memory, offset: 0, stride: 2 * width },
    v: { tensor: memory, offset: width, stride: 2 * width },
  });
  const inputs = columns(q.value, kv.value);
  const { o, lse } = crossAttentionOp(step, inputs, keys, shape);
  return tape.result(o, [q, kv], [lse], (dO) => {
    const [dq, dkv] = [step.tensor(q.value.shape), step.tensor(kv.value.shape)];
    const into = columns(dq, dkv);
    crossAttentionGradient(step, dO, o, lse, inputs, keys, shape, { dq: into.q, dk: into.k, dv: into.v });
    tape.give(q, dq);
    tape.give(kv, dkv);
  });
}

/** Rows of a trainable table. ids on host and GPU hold the same values. Returns [ids, D]. */
export function embedding(tape: Tape, table: Parameter, host: Uint32Array, ids: Tensor): Variable {
  const { step } = tape;
  return tape.result(embed(step, table.value, ids), [Tape.TRAINABLE], [], (dy) => {
    if (!accumulates(table)) step.zero(table.grad);
    embeddingGradient(step, dy, host, table.grad, true);
  });
}

/** The mean row of every packed sequence: x [T, D], none of the sequences empty; returns [S, D]. */
export function meanRows(tape: Tape, x: Variable, sequences: Packed): Variable {
  const { step } = tape;
  const [, width] = x.value.shape;
  const { lengths, cuSeqlens, sequenceOf } = sequences;
  // Every row of [S, D] divided by its sequence's length: an aggregation of one sequence with that gate.
  const share = step.upload(
    Float32Array.from(lengths, (n) => 1 / n),
    [lengths.length, 1],
  );
  const shape = { batch: lengths.length, active: 1, rows: 1, width };
  const sums = segmentSum(step, x.value, cuSeqlens);
  const means = aggregateOp(step, sums, share, shape);
  step.free(sums);
  return tape.result(means, [x], [], (dy) => {
    const each = aggregateOp(step, dy, share, shape);
    tape.give(x, gatherOp(step, each, sequenceOf));
    step.free(each);
  });
}

/** Some rows of x [T, D], each at most once. Returns [rows, D]. */
export function gatherRows(tape: Tape, x: Variable, rows: Tensor): Variable {
  return tape.result(gatherOp(tape.step, x.value, rows), [x], [], (dy) => {
    tape.give(x, scatterRows(tape.step, dy, rows, x.value.shape[0]));
  });
}
