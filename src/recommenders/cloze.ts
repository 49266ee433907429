/** BERT4Rec's training task: predict masked items from both sides. */
import { Random } from "../data/random.ts";
import { type BatchLimits, batchesOf } from "./batches.ts";
import type { TrainingBatch } from "./recommender.ts";

export interface ClozeSettings extends BatchLimits {
  /** Share of positions masked in a random cloze. */
  readonly maskRate: number;
  /** Share of sequences whose last item alone is masked, as in prediction. */
  readonly lastOnly: number;
  readonly seed: number;
}

/** Sequences of item ids with some replaced by the mask. The targets are the items that were there. */
export interface MaskedBatch extends TrainingBatch {
  readonly sequences: readonly (readonly number[])[];
  /** Packed rows that are masked. */
  readonly maskedRows: Uint32Array<ArrayBuffer>;
}

/** Which items of a sequence of n are masked: the last alone, or each with the mask rate and at least one. */
function cloze(random: Random, n: number, { maskRate, lastOnly }: ClozeSettings): boolean[] {
  const masked = new Array<boolean>(n).fill(false);
  if (n === 1 || random.uniform() < lastOnly) {
    masked[n - 1] = true;
    return masked;
  }
  for (let i = 0; i < n; i++) masked[i] = random.uniform() < maskRate;
  if (!masked.includes(true)) masked[random.below(n)] = true;
  return masked;
}

/** The batches of one epoch, a function of (seed, epoch) alone. Sequences must not be empty; `mask` is the mask's id. */
export function* clozeBatches(
  sequences: readonly Uint32Array[],
  mask: number,
  settings: ClozeSettings,
  epoch: number,
): Generator<MaskedBatch> {
  const random = new Random(settings.seed, "cloze", epoch);
  const order = random.permutation(sequences.length);
  const lengths = sequences.map(({ length }) => length);
  for (const batch of batchesOf(order, lengths, settings)) {
    const inputs: number[][] = [];
    const rows: number[] = [];
    const targets: number[] = [];
    let row = 0;
    for (const s of batch) {
      const items = sequences[s];
      const masked = cloze(random, items.length, settings);
      inputs.push(Array.from(items, (item, i) => (masked[i] ? mask : item)));
      masked.forEach((isMasked, i) => {
        if (!isMasked) return;
        rows.push(row + i);
        targets.push(items[i]);
      });
      row += items.length;
    }
    yield { sequences: inputs, maskedRows: Uint32Array.from(rows), targets: Uint32Array.from(targets) };
  }
}
