/**
 * A Llama whose own weights train, for making the tiny embedded backbone (weights/make-shop-llama.mjs): next-token
 * prediction with the embedding tied to the output. The frozen model that Laser runs is decoder.ts; a checkpoint
 * written from here is read there like any other.
 */
import { add, embedding, gatherRows, linear, rmsNorm, selfAttention, swiglu } from "../autograd/functions.ts";
import { itemCrossEntropy } from "../autograd/loss.ts";
import { type Parameter, Parameters } from "../autograd/parameters.ts";
import { Tape } from "../autograd/tape.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { packed } from "../ops/packed.ts";
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
   * Records loss and gradients of next-token prediction over packed texts; returns the sum of the losses [1]. `noise`
   * [T, d], when given, is added to the embeddings: it turns a token into one that the model does not know.
   */
  trainStep(
    step: Step,
    texts: readonly Uint32Array[],
    noise: Float32Array<ArrayBuffer> | null = null,
    gradients = true,
  ): { loss: Tensor; count: number } {
    const tape = new Tape(step, { gradients, dropout: null });
    const { heads, keyValueHeads, hiddenSize, normEpsilon, ropeTheta } = this.sizes;
    const sequences = packed(
      step,
      texts.map((text) => text.length),
    );
    const ids = new Uint32Array(sequences.total);
    const rows: number[] = [];
    const targets: number[] = [];
    let row = 0;
    for (const text of texts) {
      ids.set(text, row);
      for (let i = 0; i + 1 < text.length; i++) {
        rows.push(row + i);
        targets.push(text[i + 1]);
      }
      row += text.length;
    }
    const headSize = hiddenSize / heads;
    const shape = {
      heads,
      keyValueHeads,
      headSize,
      causal: true,
      rope: { layout: "half" as const, frequencies: rotaryFrequencies(headSize, ropeTheta) },
    };
    let x = embedding(tape, this.table, ids, step.upload(ids));
    if (noise) x = add(tape, x, tape.constant(step.upload(noise, [sequences.total, hiddenSize])));
    for (const layer of this.layers) {
      const qkv = linear(tape, rmsNorm(tape, x, layer.inputNorm, normEpsilon), layer.qkv, null);
      x = add(tape, x, linear(tape, selfAttention(tape, qkv, sequences, shape), layer.output, null));
      const gateUp = linear(tape, rmsNorm(tape, x, layer.postNorm, normEpsilon), layer.gateUp, null);
      x = add(tape, x, linear(tape, swiglu(tape, gateUp), layer.down, null));
    }
    const hidden = rmsNorm(
      tape,
      gatherRows(tape, x, step.upload(Uint32Array.from(rows))),
      this.finalNorm,
      normEpsilon,
    );
    const side = { items: this.table.value, bias: null, trained: { table: this.table, bias: null } };
    const loss = itemCrossEntropy(tape, hidden, side, step.upload(Uint32Array.from(targets)), 1);
    tape.backward();
    return { loss, count: targets.length };
  }
}
