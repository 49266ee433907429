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
import type { MaskedBatch } from "./cloze.ts";
import { ItemInput, type PackedItems } from "./item-input.ts";
import type { RankingSide, TrainableRecommender } from "./recommender.ts";

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

export class Bert4Rec implements TrainableRecommender<MaskedBatch> {
  readonly label = "BERT4Rec";
  readonly parameters = new Parameters();
  private readonly input: ItemInput;
  private readonly table: Parameter;
  private readonly positions: Parameter;
  private readonly norm: LayerNorm;
  private readonly blocks: readonly { attention: SelfAttention; feedForward: FeedForward }[];
  private readonly head: Linear;
  private readonly headNorm: LayerNorm;
  private readonly itemBias: Parameter;

  constructor(readonly sizes: Bert4RecSizes) {
    const { items, width, heads, maxLength, dropout: rate } = sizes;
    const p = this.parameters;
    // An unknown item is read as the mask: its own embedding means nothing.
    this.input = new ItemInput(items, maxLength, this.mask);
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

  get maxLength(): number {
    return this.sizes.maxLength;
  }

  /** The id of the mask. */
  get mask(): number {
    return this.sizes.items;
  }

  setKnown(counts: ArrayLike<number>): void {
    this.input.setKnown(counts);
  }

  /** Item and position embeddings, then the blocks: the last hidden states [sum N, width]. */
  private encode(tape: Tape, { ids, places, sequences }: PackedItems): Variable {
    const { step } = tape;
    const embedded = tape.scope(() => {
      const items = embedding(tape, this.table, ids, step.upload(ids));
      const positions = embedding(tape, this.positions, places, step.upload(places));
      return dropout(tape, this.norm.forward(tape, add(tape, items, positions)), this.sizes.dropout);
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

  trainStep(step: Step, batch: MaskedBatch, key: { seed: number; step: number } | null): Tensor {
    const tape = new Tape(step, { gradients: true, dropout: key });
    const hidden = this.encode(tape, this.input.pack(step, batch.sequences));
    const masked = gatherRows(tape, hidden, step.upload(batch.maskedRows));
    const predicted = this.predict(tape, masked);
    const loss = itemCrossEntropy(tape, predicted, this.itemSide(true), step.upload(batch.targets), 1);
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
    const room = this.sizes.maxLength - 1;
    const inputs = histories.map((history) => [...this.input.newest(history, room), this.mask]);
    const packed = this.input.pack(step, inputs);
    const hidden = this.encode(tape, packed);
    const predicted = this.predict(tape, gatherRows(tape, hidden, step.upload(packed.last)));
    const { items, bias } = this.itemSide(false);
    return { h: predicted.value, items, bias };
  }

  release(gpu: Gpu): void {
    this.parameters.release(gpu);
  }
}
