/**
 * A Llama whose own weights train, for making the tiny embedded backbone (weights/make-shop-llama.mjs): next-token
 * prediction with the embedding tied to the output, and summaries in single words. The frozen model that Laser runs is decoder.ts; a checkpoint
 * written from here is read there like any other.
 */
import { add, embedding, gatherRows, linear, rmsNorm, selfAttention, swiglu } from "../autograd/functions.ts";
import { itemCrossEntropy } from "../autograd/loss.ts";
import { type Parameter, Parameters } from "../autograd/parameters.ts";
import { Tape, type Variable } from "../autograd/tape.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { type Packed, packed } from "../ops/packed.ts";
import { rotaryFrequencies } from "../ops/rope.ts";

export interface TrainableLlamaSizes {
  readonly vocabularySize: number;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly intermediateSize: number;
  readonly normEpsilon: number;
  readonly ropeTheta: number;
}

/** A sequence whose last token is answered by single words. */
export interface TrainingText {
  readonly ids: Uint32Array;
  /** Next-token prediction begins at this token and ends before the last: neither what precedes it is predicted, nor the last. */
  readonly from: number;
  /** Token ids, as many in every text of a batch: after the last token each is as right as the others. */
  readonly words: readonly number[];
}

/** Scalar tensors whose sum is a loss over `count` predictions. */
export interface LossSum {
  readonly sums: readonly Tensor[];
  readonly count: number;
}

export class TrainableLlama {
  readonly parameters = new Parameters();
  private readonly table: Parameter;
  private readonly finalNorm: Parameter;
  private readonly layers: readonly {
    inputNorm: Parameter;
    qkv: Parameter;
    output: Parameter;
    postNorm: Parameter;
    gateUp: Parameter;
    down: Parameter;
  }[];

  constructor(readonly sizes: TrainableLlamaSizes) {
    const { hiddenSize: d, heads, keyValueHeads, intermediateSize: f, layers } = sizes;
    const p = this.parameters;
    const h = d / heads;
    const initial = { normal: 0.02 };
    // GPT-2's scaling of the layers that write to the residual stream.
    const residual = { normal: 0.02 / Math.sqrt(2 * layers) };
    const one = { constant: 1 };
    this.table = p.declare("model.embed_tokens.weight", [sizes.vocabularySize, d], initial);
    this.layers = Array.from({ length: layers }, (_, n) => {
      const name = (part: string) => `model.layers.${n}.${part}.weight`;
      const stacked = (rows: Readonly<Record<string, number>>) =>
        p.declareStacked(
          Object.entries(rows).map(([part, out]) => ({ name: name(part), shape: [out, d], initial })),
        );
      return {
        inputNorm: p.declare(name("input_layernorm"), [d], one),
        qkv: stacked({
          "self_attn.q_proj": heads * h,
          "self_attn.k_proj": keyValueHeads * h,
          "self_attn.v_proj": keyValueHeads * h,
        }),
        output: p.declare(name("self_attn.o_proj"), [d, heads * h], residual),
        postNorm: p.declare(name("post_attention_layernorm"), [d], one),
        gateUp: stacked({ "mlp.gate_proj": f, "mlp.up_proj": f }),
        down: p.declare(name("mlp.down_proj"), [d, f], residual),
      };
    });
    this.finalNorm = p.declare("model.norm.weight", [d], one);
  }

  /**
   * Records losses and gradients of packed texts: next-token prediction (mean over its tokens, times `tokenWeight`),
   * and the cross-entropy of the words that answer each text's last token (mean over words and texts). `noise` [T, d]
   * is added to the embeddings: it stands in for those of unknown tokens. Returns the two sums, and their counts.
   */
  trainStep(
    step: Step,
    texts: readonly TrainingText[],
    noise: Float32Array<ArrayBuffer>,
    { tokenWeight, gradients }: { readonly tokenWeight: number; readonly gradients: boolean },
  ): { tokens: LossSum; words: LossSum } {
    const tape = new Tape(step, { gradients, dropout: null });
    const { hiddenSize } = this.sizes;
    const sequences = packed(
      step,
      texts.map(({ ids }) => ids.length),
    );
    const ids = new Uint32Array(sequences.total);
    const rows: number[] = [];
    const next: number[] = [];
    const ends: number[] = [];
    let row = 0;
    for (const text of texts) {
      ids.set(text.ids, row);
      for (let i = text.from; i + 2 < text.ids.length; i++) {
        rows.push(row + i);
        next.push(text.ids[i + 1]);
      }
      row += text.ids.length;
      ends.push(row - 1);
    }
    const embedded = add(
      tape,
      embedding(tape, this.table, ids, step.upload(ids)),
      tape.constant(step.upload(noise, [sequences.total, hiddenSize])),
    );
    const last = this.layersForward(tape, embedded, sequences);
    const side = { items: this.table.value, bias: null, trained: { table: this.table, bias: null } };
    const crossEntropy = (at: readonly number[], targets: readonly (readonly number[])[], weight: number) => {
      const picked = gatherRows(tape, last, step.upload(Uint32Array.from(at)));
      const hidden = rmsNorm(tape, picked, this.finalNorm, this.sizes.normEpsilon);
      const sums = targets.map((list) =>
        itemCrossEntropy(tape, hidden, side, step.upload(Uint32Array.from(list)), 1, weight / targets.length),
      );
      return { sums, count: at.length * targets.length };
    };
    const tokens = crossEntropy(rows, [next], tokenWeight);
    const wordLists = texts[0].words.map((_, k) => texts.map((text) => text.words[k]));
    const words = crossEntropy(ends, wordLists, 1);
    tape.backward();
    return { tokens, words };
  }

  private layersForward(tape: Tape, embedded: Variable, sequences: Packed): Variable {
    const { heads, keyValueHeads, hiddenSize, normEpsilon, ropeTheta } = this.sizes;
    const headSize = hiddenSize / heads;
    const shape = {
      heads,
      keyValueHeads,
      headSize,
      causal: true,
      rope: { layout: "half" as const, frequencies: rotaryFrequencies(headSize, ropeTheta) },
    };
    let x = embedded;
    for (const layer of this.layers) {
      const qkv = linear(tape, rmsNorm(tape, x, layer.inputNorm, normEpsilon), layer.qkv, null);
      x = add(tape, x, linear(tape, selfAttention(tape, qkv, sequences, shape), layer.output, null));
      const gateUp = linear(tape, rmsNorm(tape, x, layer.postNorm, normEpsilon), layer.gateUp, null);
      x = add(tape, x, linear(tape, swiglu(tape, gateUp), layer.down, null));
    }
    return x;
  }
}
