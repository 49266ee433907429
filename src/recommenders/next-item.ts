/** SASRec's training task: predict the next item at every position of a sequence. */
import { Random } from "../data/random.ts";
import { type BatchLimits, batchesOf } from "./batches.ts";
import type { TrainingBatch } from "./recommender.ts";

export interface NextItemSettings extends BatchLimits {
  /** Against all items, or (the original) against one sampled item a position. */
  readonly loss: "cross-entropy" | "binary";
  readonly maxLength: number;
  readonly seed: number;
}

/** Sequences without their last item. The targets are the next item of every packed row. */
export interface NextItemBatch extends TrainingBatch {
  readonly sequences: readonly Uint32Array[];
  /** For the binary loss: one item a row that its user has not in the training sequence; null for cross-entropy. */
  readonly negatives: Uint32Array<ArrayBuffer> | null;
}

/** The items that a user's negatives must not be: drawn by rejection, so some item must be left. */
function sampleNegative(random: Random, own: ReadonlySet<number>, target: number, items: number): number {
  const all = own.size >= items;
  for (;;) {
    const item = random.below(items);
    if (all ? item !== target || items === 1 : !own.has(item)) return item;
  }
}

/**
 * The batches of one epoch, a function of (seed, epoch) alone, from whole training sequences of two items or more. Of
 * longer ones than fit, the newest maxLength + 1 items are used.
 */
export function* nextItemBatches(
  sequences: readonly Uint32Array[],
  items: number,
  settings: NextItemSettings,
  epoch: number,
): Generator<NextItemBatch> {
  const { loss, maxLength, seed } = settings;
  const order = new Random(seed, "next item", epoch).permutation(sequences.length);
  const random = new Random(seed, "negatives", epoch);
  const lengths = sequences.map(({ length }) => Math.min(length - 1, maxLength));
  for (const batch of batchesOf(order, lengths, settings)) {
    const inputs: Uint32Array[] = [];
    const targets: number[] = [];
    const negatives: number[] = [];
    for (const s of batch) {
      const sequence = sequences[s];
      const shown = sequence.subarray(-(maxLength + 1));
      inputs.push(shown.subarray(0, -1));
      const own = new Set(sequence);
      for (const target of shown.subarray(1)) {
        targets.push(target);
        if (loss === "binary") negatives.push(sampleNegative(random, own, target, items));
      }
    }
    yield {
      sequences: inputs,
      targets: Uint32Array.from(targets),
      negatives: loss === "binary" ? Uint32Array.from(negatives) : null,
    };
  }
}
