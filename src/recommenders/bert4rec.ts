/**
 * BERT4Rec (Sun et al., 2019): a bidirectional transformer over item ids, trained to fill masked positions. Its last
 * hidden states are the collaborative embeddings C that the M-Former reads.
 */
import { add, dropout, embedding, gatherRows, gelu } from "../autograd/functions.ts";
import { type ItemSide, itemCrossEntropy } from "../autograd/loss.ts";
import { type Parameter, Parameters } from "../autograd/parameters.ts";
import { Tape, type Variable } from "../autograd/tape.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { SelfAttention } from "../nn/attention.ts";
import { FeedForward } from "../nn/feed-forward.ts";
import { LayerNorm } from "../nn/layer-norm.ts";
import { Linear, WEIGHT_INITIAL, ZERO } from "../nn/linear.ts";
import { type Packed, packed } from "../ops/packed.ts";
import type { RankingSide, Recommender } from "./recommender.ts";

export interface Bert4RecSizes {
  readonly items: number;
  /** d_c: heads times 32 in the paper. */
  readonly width: number;
  readonly heads: number;
  readonly blocks: number;
  /** Positions: only the newest items of a longer history are read. */
  readonly maxLength: number;
  readonly dropout: number;
}

/** A training example: item ids with some replaced by the mask, and the ids that were there. */
export interface MaskedBatch {
  readonly sequences: readonly (readonly number[])[];
  /** Packed rows that are masked, and their true items. */
  readonly maskedRows: Uint32Array<ArrayBuffer>;
  readonly targets: Uint32Array<ArrayBuffer>;
}

export class Bert4Rec implements Recommender {
  readonly parameters = new Parameters();
  private readonly table: Parameter;
  private readonly positions: Parameter;
  private readonly norm: LayerNorm;
  private readonly blocks: readonly { attention: SelfAttention; feedForward: FeedForward }[];
  private readonly head: Linear;
  private readonly headNorm: LayerNorm;
  private readonly itemBias: Parameter;
  /** Items that training never showed: read as the mask, since their embedding means nothing. */
  private known: Uint8Array | null = null;

  constructor(readonly sizes: Bert4RecSizes) {
    const { items, width, heads, maxLength, dropout: rate } = sizes;
    const p = this.parameters;
    this.table = p.declare("items.weight", [items + 1, width], WEIGHT_INITIAL);
    this.positions = p.declare("positions.weight", [maxLength, width], WEIGHT_INITIAL);
    this.norm = new LayerNorm(p, "norm", width);
    this.blocks = Array.from({ length: sizes.blocks }, (_, z) => ({
      attention: new SelfAttention(p, `blocks.${z}.self_attn`, {
        width,
        heads,
        dropout: rate,
        causal: false,
      }),
      feedForward: new FeedForward(p, `blocks.${z}`, width, rate),
    }));
    this.head = new Linear(p, "head", width, width);
    this.headNorm = new LayerNorm(p, "head.norm", width);
    this.itemBias = p.declare("items.bias", [items], ZERO);
  }

  get width(): number {
    return this.sizes.width;
  }

  get itemCount(): number {
    return this.sizes.items;
  }

  /** The id of the mask. */
  get mask(): number {
    return this.sizes.items;
  }

  /** Declares which items training saw; the others are read as the mask. */
  setKnown(counts: ArrayLike<number>): void {
    this.known = Uint8Array.from({ length: this.sizes.items }, (_, i) => (counts[i] > 0 ? 1 : 0));
  }

  /** The id under which the model reads an item. */
  private inputId(item: number): number {
    return item < this.sizes.items && (!this.known || this.known[item]) ? item : this.mask;
  }

  private encode(tape: Tape, ids: Uint32Array<ArrayBuffer>, sequences: Packed): Variable {
    const { step } = tape;
    const rate = this.sizes.dropout;
    const places = new Uint32Array(ids.length);
    let row = 0;
    // Positions count back from the end, as with left padding: the item to predict always has the last one.
    for (const length of sequences.lengths) {
      for (let i = 0; i < length; i++) places[row++] = this.sizes.maxLength - length + i;
    }
    const embedded = tape.scope(() => {
      const items = embedding(tape, this.table, ids, step.upload(ids));
      const positions = embedding(tape, this.positions, places, step.upload(places));
      return dropout(tape, this.norm.forward(tape, add(tape, items, positions)), rate);
    });
    const stages = this.blocks.flatMap(({ attention, feedForward }) => [
      (x: Variable) => attention.forward(tape, x, sequences),
      (x: Variable) => feedForward.forward(tape, x),
    ]);
    return tape.chain(embedded, stages);
  }

  /** The prediction head over some rows: dense, GELU, LayerNorm; compared with the tied item table. */
  private predict(tape: Tape, hidden: Variable): Variable {
    return tape.scope(() => this.headNorm.forward(tape, gelu(tape, this.head.forward(tape, hidden), "none")));
  }

  private itemSide(trained: boolean): ItemSide {
    return {
      items: this.table.value.rows(0, this.sizes.items),
      bias: this.itemBias.value,
      trained: trained ? { table: this.table, bias: this.itemBias } : null,
    };
  }

  /** Records loss and gradients of one masked batch; returns the sum of the masked positions' losses [1]. */
  trainStep(step: Step, batch: MaskedBatch, key: { seed: number; step: number }): Tensor {
    const tape = new Tape(step, { gradients: true, dropout: key });
    const { ids, sequences } = this.pack(step, batch.sequences);
    const hidden = this.encode(tape, ids, sequences);
    const masked = gatherRows(tape, hidden, step.upload(batch.maskedRows));
    const predicted = this.predict(tape, masked);
    const loss = itemCrossEntropy(tape, predicted, this.itemSide(true), step.upload(batch.targets), 1);
    tape.backward();
    return loss;
  }

  private pack(
    step: Step,
    histories: readonly ArrayLike<number>[],
  ): { ids: Uint32Array<ArrayBuffer>; sequences: Packed } {
    const lengths = histories.map((history) => {
      if (history.length < 1 || history.length > this.sizes.maxLength) {
        throw new Error(`a history of ${history.length} items; expected 1 to ${this.sizes.maxLength}`);
      }
      return history.length;
    });
    const sequences = packed(step, lengths);
    const ids = new Uint32Array(sequences.total);
    let row = 0;
    for (const history of histories) for (let i = 0; i < history.length; i++) ids[row++] = history[i];
    return { ids, sequences };
  }

  /** The newest items that fit `room` positions, as input ids. */
  private read(history: ArrayLike<number>, room: number): number[] {
    const from = Math.max(0, history.length - room);
    return Array.from({ length: history.length - from }, (_, i) => this.inputId(history[from + i]));
  }

  hiddenStates(step: Step, histories: readonly ArrayLike<number>[]): Tensor {
    const tape = new Tape(step, { gradients: false, dropout: null });
    const inputs = histories.map((history) => this.read(history, history.length));
    const { ids, sequences } = this.pack(step, inputs);
    return this.encode(tape, ids, sequences).value;
  }

  ranking(step: Step, histories: readonly ArrayLike<number>[]): RankingSide {
    const tape = new Tape(step, { gradients: false, dropout: null });
    const inputs = histories.map((history) => [...this.read(history, this.sizes.maxLength - 1), this.mask]);
    const { ids, sequences } = this.pack(step, inputs);
    const hidden = this.encode(tape, ids, sequences);
    let end = 0;
    const last = Uint32Array.from(inputs, (input) => {
      end += input.length;
      return end - 1;
    });
    const predicted = this.predict(tape, gatherRows(tape, hidden, step.upload(last)));
    const { items, bias } = this.itemSide(false);
    return { h: predicted.value, items, bias };
  }

  /** Ends the model's GPU memory. */
  release(gpu: Gpu): void {
    this.parameters.release(gpu);
  }
}
