import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { type Attended, attend, attendGradient } from "./attend.ts";
import type { HeadShape, Reading } from "./attend-plan.ts";
import type { QueriesKeysValues } from "./attention.ts";
import type { Strided } from "./strided.ts";

/** Whose keys every query sequence reads. */
export interface RaggedKeys {
  /** Rows of k and v of each user, end to end. */
  readonly keyLengths: readonly number[];
  /** The user whose keys query sequence s reads. A user may own several query sequences, or none. */
  readonly owner: readonly number[];
}

export interface CrossAttentionShape {
  readonly heads: number;
  readonly headSize: number;
  /** Rows of q in one query sequence. */
  readonly queryLength: number;
}

const readings = new WeakMap<RaggedKeys, Map<number, Reading>>();

function readingOf(keys: RaggedKeys, queryLength: number): Reading {
  let byLength = readings.get(keys);
  if (!byLength) {
    byLength = new Map();
    readings.set(keys, byLength);
  }
  let reading = byLength.get(queryLength);
  if (!reading) {
    reading = makeReading(keys, queryLength);
    byLength.set(queryLength, reading);
  }
  return reading;
}

function makeReading({ keyLengths, owner }: RaggedKeys, queryLength: number): Reading {
  let row = 0;
  const keyRanges = keyLengths.map((length) => {
    const keys: [number, number] = [row, row + length];
    row += length;
    return { keys, spans: [] as number[] };
  });
  const spans = owner.map((user, s) => {
    const range = keyRanges[user];
    if (!range || range.keys[0] === range.keys[1])
      throw new Error(`query sequence ${s} reads the keys of user ${user}, who has none`);
    range.spans.push(s);
    return { queries: [s * queryLength, (s + 1) * queryLength] as [number, number], keys: range.keys };
  });
  return { rows: owner.length * queryLength, spans, keyRanges, causal: false, uploaded: new Map() };
}

const headShape = ({ heads, headSize }: CrossAttentionShape): HeadShape => ({
  heads,
  keyValueHeads: heads,
  headSize,
});

/**
 * Cross-attention: query sequence s (rows s x queryLength onwards of q) reads all keys of user owner[s]:
 * o = softmax(q k^T / sqrt(h)) v, per head. q has owner.length x queryLength rows; k and v have one row a key, the
 * users' end to end; all rows hold heads x headSize. Conditions on sizes as in `selfAttention`; throws Error when an
 * owner has no keys.
 *
 * Returns o [rows of q, heads x headSize] and lse [rows of q, heads].
 */
export function crossAttention(
  step: Step,
  inputs: QueriesKeysValues,
  keys: RaggedKeys,
  shape: CrossAttentionShape,
): Attended {
  return attend(step, inputs, readingOf(keys, shape.queryLength), headShape(shape));
}

/**
 * The gradients of `crossAttention` given dO [rows of q, heads x headSize], overwriting `into` (dk and dv may be
 * ranges of one tensor). The gradient of a key sums over the query sequences of its user in order, without atomics;
 * keys that nobody reads get zero.
 */
export function crossAttentionGradient(
  step: Step,
  dO: Tensor,
  o: Tensor,
  lse: Tensor,
  inputs: QueriesKeysValues,
  keys: RaggedKeys,
  shape: CrossAttentionShape,
  into: { readonly dq: Strided; readonly dk: Strided; readonly dv: Strided },
): void {
  const reading = readingOf(keys, shape.queryLength);
  attendGradient(step, dO, { o, lse }, inputs, reading, headShape(shape), into);
}
