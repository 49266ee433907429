import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { type Attended, attend, attendGradient } from "./attend.ts";
import type { HeadShape, Reading } from "./attend-plan.ts";
import type { Packed } from "./packed.ts";
import type { Strided } from "./strided.ts";

export interface SelfAttentionShape extends HeadShape {
  /** A row reads only itself and the rows before it of its sequence; otherwise its whole sequence. */
  readonly causal: boolean;
}

export interface QueriesKeysValues {
  /** Rows of heads x headSize. */
  readonly q: Strided;
  /** Rows of keyValueHeads x headSize. */
  readonly k: Strided;
  readonly v: Strided;
}

const readings = new WeakMap<Packed, { causal: Reading; full: Reading }>();

/** Every sequence reads itself. */
export function selfReading(packed: Packed, causal: boolean): Reading {
  let both = readings.get(packed);
  if (!both) {
    let row = 0;
    const spans = packed.lengths.map((length) => {
      const rows: [number, number] = [row, row + length];
      row += length;
      return { queries: rows, keys: rows };
    });
    const keyRanges = spans.map(({ keys }, s) => ({ keys, spans: [s] }));
    const reading = { rows: packed.total, spans, keyRanges };
    both = {
      causal: { ...reading, causal: true, uploaded: new Map() },
      full: { ...reading, causal: false, uploaded: new Map() },
    };
    readings.set(packed, both);
  }
  return causal ? both.causal : both.full;
}

/**
 * Self-attention of packed sequences: o = softmax(q k^T / sqrt(h)) v in each sequence by itself, scores never written
 * to memory. Query head i reads key/value head floor(i / (heads / keyValueHeads)). Head sizes are multiples of 4 up to
 * 256; offsets and strides multiples of 4 elements (throws Error otherwise).
 *
 * Returns o [T, heads x headSize] and lse [T, heads], the natural log-sum-exp of every row's scores. What a sequence
 * gives does not depend on the others of the call, to the bit.
 */
export function selfAttention(
  step: Step,
  inputs: QueriesKeysValues,
  packed: Packed,
  shape: SelfAttentionShape,
): Attended {
  return attend(step, inputs, selfReading(packed, shape.causal), shape);
}

/**
 * The gradients of `selfAttention` given dO [T, heads x headSize], overwriting `into` (which may be three ranges of one
 * fused gradient). The probabilities are recomputed from lse; the gradient of a shared key/value head sums over its
 * group in order, without atomics.
 */
export function selfAttentionGradient(
  step: Step,
  dO: Tensor,
  o: Tensor,
  lse: Tensor,
  inputs: QueriesKeysValues,
  packed: Packed,
  shape: SelfAttentionShape,
  into: { readonly dq: Strided; readonly dk: Strided; readonly dv: Strided },
): void {
  attendGradient(step, dO, { o, lse }, inputs, selfReading(packed, shape.causal), shape, into);
}
