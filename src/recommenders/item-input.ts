import type { Step } from "../gpu/step.ts";
import { type Packed, packed } from "../ops/packed.ts";

/** Histories as a transformer over items reads them: packed end to end, without padding. */
export interface PackedItems {
  readonly sequences: Packed;
  /** Input id of every row. */
  readonly ids: Uint32Array<ArrayBuffer>;
  /** Position of every row. They count back from the end, as with left padding: the newest item has the last one. */
  readonly places: Uint32Array<ArrayBuffer>;
  /** The last row of every history. */
  readonly last: Uint32Array<ArrayBuffer>;
}

/** Which ids a recommender with `maxLength` positions reads for items, and how it packs them. */
export class ItemInput {
  /** Items that training showed, or null for all of them. */
  private known: Uint8Array | null = null;

  constructor(
    readonly items: number,
    readonly maxLength: number,
    /** The id under which an unknown item is read: the embedding of one that training never showed means nothing. */
    readonly unknown: number,
  ) {}

  /** Declares how often training shows each item. */
  setKnown(counts: ArrayLike<number>): void {
    this.known = Uint8Array.from({ length: this.items }, (_, i) => (counts[i] > 0 ? 1 : 0));
  }

  /** The input ids of the newest `most` items of a history. */
  newest(history: ArrayLike<number>, most = history.length): number[] {
    const from = Math.max(0, history.length - most);
    return Array.from({ length: history.length - from }, (_, i) => {
      const item = history[from + i];
      return item < this.items && (!this.known || this.known[item]) ? item : this.unknown;
    });
  }

  /** Packs input ids. Throws Error for a sequence that is empty or has more items than positions. */
  pack(step: Step, inputs: readonly ArrayLike<number>[]): PackedItems {
    const lengths = inputs.map(({ length }) => {
      if (length < 1 || length > this.maxLength) {
        throw new Error(`a history of ${length} items; expected 1 to ${this.maxLength}`);
      }
      return length;
    });
    const sequences = packed(step, lengths);
    const ids = new Uint32Array(sequences.total);
    const places = new Uint32Array(sequences.total);
    const last = new Uint32Array(inputs.length);
    let row = 0;
    inputs.forEach((input, s) => {
      for (let i = 0; i < input.length; i++) {
        ids[row] = input[i];
        places[row++] = this.maxLength - input.length + i;
      }
      last[s] = row - 1;
    });
    return { sequences, ids, places, last };
  }
}
