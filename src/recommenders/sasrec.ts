/**
 * SASRec (Kang and McAuley, 2018): a causal transformer over item ids, trained to predict the next item at every
 * position. Its last hidden states can take the place of BERT4Rec's as the collaborative embeddings C (Figure 5).
 */
import { add, dropout, embedding, gatherRows } from "../autograd/functions.ts";
import { binaryCrossEntropy, itemCrossEntropy } from "../autograd/loss.ts";
import { type Parameter, Parameters } from "../autograd/parameters.ts";
import { Tape, type Variable } from "../autograd/tape.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { SelfAttention } from "../nn/attention.ts";
import { FeedForward } from "../nn/feed-forward.ts";
import { LayerNorm } from "../nn/layer-norm.ts";
import { WEIGHT_INITIAL, ZERO } from "../nn/linear.ts";
import { ItemInput, type PackedItems } from "./item-input.ts";
import type { NextItemBatch } from "./next-item.ts";
import type { RankingSide, TrainableRecommender } from "./recommender.ts";

export interface SasRecSizes {
  readonly items: number;
  /** d_c. */
  readonly width: number;
  readonly heads: number;
  readonly blocks: number;
  /** Positions: only the newest items of a longer history are read. */
  readonly maxLength: number;
  readonly dropout: number;
}

export class SasRec implements TrainableRecommender<NextItemBatch> {
  readonly label = "SASRec";
  readonly parameters = new Parameters();
  private readonly input: ItemInput;
  private readonly table: Parameter;
  private readonly positions: Parameter;
  private readonly blocks: readonly { attention: SelfAttention; feedForward: FeedForward }[];
  private readonly norm: LayerNorm;

  constructor(readonly sizes: SasRecSizes) {
    const { items, width, heads, maxLength, dropout: rate } = sizes;
    const p = this.parameters;
    this.input = new ItemInput(items, maxLength, this.padding);
    // The embedding of padding is zero and gets no gradient: it is nobody's input in training, and no candidate.
    this.table = p.declareStacked([
      { name: "items.weight", shape: [items, width], initial: WEIGHT_INITIAL },
      { name: "padding.weight", shape: [1, width], initial: ZERO },
    ]);
    this.positions = p.declare("positions.weight", [maxLength, width], WEIGHT_INITIAL);
    this.blocks = Array.from({ length: sizes.blocks }, (_, z) => ({
      attention: new SelfAttention(p, `blocks.${z}.self_attn`, {
        width,
        heads,
        dropout: rate,
        causal: true,
        norm: "pre",
      }),
      feedForward: new FeedForward(p, `blocks.${z}`, width, rate, {
        expansion: 1,
        activation: "relu",
        norm: "pre",
      }),
    }));
    this.norm = new LayerNorm(p, "norm", width);
  }

  get width(): number {
    return this.sizes.width;
  }

  get itemCount(): number {
    return this.sizes.items;
  }

  get maxLength(): number {
    return this.sizes.maxLength;
  }

  /** The id of padding: what an unknown item is read as. */
  get padding(): number {
    return this.sizes.items;
  }

  setKnown(counts: ArrayLike<number>): void {
    this.input.setKnown(counts);
  }

  /** Embedding layer, self-attention blocks, final LayerNorm: the last hidden states [sum N, width]. */
  private encode(tape: Tape, { ids, places, sequences }: PackedItems): Variable {
    const { step } = tape;
    const embedded = tape.scope(() => {
      const items = embedding(tape, this.table, ids, step.upload(ids));
      const positions = embedding(tape, this.positions, places, step.upload(places));
      return dropout(tape, add(tape, items, positions), this.sizes.dropout);
    });
    const stages = this.blocks.flatMap(({ attention, feedForward }) => [
      (x: Variable) => attention.forward(tape, x, sequences),
      (x: Variable) => feedForward.forward(tape, x),
    ]);
    return tape.chain(embedded, [...stages, (x: Variable) => this.norm.forward(tape, x)]);
  }

  /** The candidates: the rows of the tied item table, without padding. */
  private get itemRows(): Tensor {
    return this.table.value.rows(0, this.sizes.items);
  }

  trainStep(step: Step, batch: NextItemBatch, key: { seed: number; step: number } | null): Tensor {
    const tape = new Tape(step, { gradients: true, dropout: key });
    const hidden = this.encode(tape, this.input.pack(step, batch.sequences));
    const { targets, negatives } = batch;
    let loss: Tensor;
    if (negatives) {
      const ids = Uint32Array.from([...targets, ...negatives]);
      loss = binaryCrossEntropy(tape, hidden, embedding(tape, this.table, ids, step.upload(ids)));
    } else {
      const side = { items: this.itemRows, bias: null, trained: { table: this.table, bias: null } };
      loss = itemCrossEntropy(tape, hidden, side, step.upload(targets), 1);
    }
    tape.backward();
    return loss;
  }

  hiddenStates(step: Step, histories: readonly ArrayLike<number>[]): Tensor {
    const tape = new Tape(step, { gradients: false, dropout: null });
    const inputs = histories.map((history) => this.input.newest(history));
    return this.encode(tape, this.input.pack(step, inputs)).value;
  }

  ranking(step: Step, histories: readonly ArrayLike<number>[]): RankingSide {
    const tape = new Tape(step, { gradients: false, dropout: null });
    const inputs = histories.map((history) => this.input.newest(history, this.sizes.maxLength));
    const packed = this.input.pack(step, inputs);
    const last = gatherRows(tape, this.encode(tape, packed), step.upload(packed.last));
    return { h: last.value, items: this.itemRows, bias: null };
  }

  release(gpu: Gpu): void {
    this.parameters.release(gpu);
  }
}
