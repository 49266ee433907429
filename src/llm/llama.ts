/**
 * The frozen Llama as one differentiable function of its virtual tokens: packed prompts in, the last hidden states at
 * the suffix positions out (after the final norm), and backwards the gradients at prefix and suffix. The weights
 * never change and never get gradients, so backward costs what forward does: dX = dY W. Each layer keeps only its
 * input; backward recomputes the rest, layer by layer.
 */
import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { swiglu, swigluGradient } from "../ops/activation.ts";
import { selfAttention, selfAttentionGradient } from "../ops/attention.ts";
import { embedPrompt, gatherRows, scatterRows } from "../ops/embedding.ts";
import { linear, linearInputGradient } from "../ops/linear.ts";
import { rmsNorm, rmsNormGradient } from "../ops/norm.ts";
import type { Packed } from "../ops/packed.ts";
import { rope } from "../ops/rope.ts";
import type { LlamaConfig } from "./config.ts";
import type { PromptBatch } from "./prompt.ts";

/** One decoder layer's weights. Linear weights are [out, in]; f32 or packed f16; norms are f32. */
export interface LlamaLayer {
  readonly inputNorm: Tensor;
  /** [(H + 2G) h, d]: query | key | value. */
  readonly qkv: Tensor;
  /** [d, H h]. */
  readonly output: Tensor;
  readonly postAttentionNorm: Tensor;
  /** [2F, d]: gate | up. */
  readonly gateUp: Tensor;
  /** [d, F]. */
  readonly down: Tensor;
}

export interface LlamaWeights {
  /** [V, d]. */
  readonly embedding: Tensor;
  readonly layers: readonly LlamaLayer[];
  readonly finalNorm: Tensor;
}

/** What backward needs of forward. */
export interface LlamaSaved {
  readonly batch: PromptBatch;
  /** The input of every layer [T, d]. */
  readonly inputs: readonly Tensor[];
  /** The hidden states at the output rows before the final norm, and their reciprocal root mean squares. */
  readonly last: Tensor;
  readonly lastRstd: Tensor;
}

export class Llama {
  constructor(
    readonly config: LlamaConfig,
    readonly weights: LlamaWeights,
  ) {}

  /** d, the width of the hidden states. */
  get hiddenSize(): number {
    return this.config.hiddenSize;
  }

  /** Positions the model was made for: prefix, text and suffix together must fit. */
  get maxPositions(): number {
    return this.config.maxPositions;
  }

  /**
   * Hidden states at the output rows after the final norm: [B * outputs, d]. prefix [B * L, d] or [L, d] (shared),
   * suffix [s, d]. With `keep`, also what backward needs; otherwise everything else is freed on the way. After the
   * last layer's attention only the output rows go on: nothing reads the others.
   */
  forward(
    step: Step,
    batch: PromptBatch,
    prefix: Tensor | null,
    suffix: Tensor | null,
    keep: boolean,
  ): { hidden: Tensor; saved: LlamaSaved | null } {
    let x = embedPrompt(step, this.weights.embedding, batch.source, prefix, suffix);
    const inputs: Tensor[] = [];
    this.weights.layers.forEach((layer, i) => {
      const rows = i === this.weights.layers.length - 1 ? batch.outputRows : null;
      const { output, kept } = this.layerForward(step, layer, x, batch.sequences, rows);
      for (const tensor of kept) step.free(tensor);
      if (keep) inputs.push(x);
      else step.free(x);
      x = output;
    });
    const { y: hidden, rstd } = rmsNorm(step, x, this.weights.finalNorm, this.config.normEpsilon);
    if (keep) return { hidden, saved: { batch, inputs, last: x, lastRstd: rstd } };
    step.free(x);
    step.free(rstd);
    return { hidden, saved: null };
  }

  /** All hidden states after the final norm [T, d] (tests and dumps). */
  hiddenStates(step: Step, batch: PromptBatch, prefix: Tensor | null, suffix: Tensor | null): Tensor {
    let x = embedPrompt(step, this.weights.embedding, batch.source, prefix, suffix);
    for (const layer of this.weights.layers) {
      const { output, kept } = this.layerForward(step, layer, x, batch.sequences, null);
      for (const tensor of [x, ...kept]) step.free(tensor);
      x = output;
    }
    return rmsNorm(step, x, this.weights.finalNorm, this.config.normEpsilon).y;
  }

  /**
   * x + attention(norm(x)), then + mlp(norm(.)): pre-norm residuals. x [T, d]; the output has the rows `rows` of it,
   * or all. `kept` holds every intermediate that backward uses.
   */
  private layerForward(step: Step, layer: LlamaLayer, x: Tensor, sequences: Packed, rows: Tensor | null) {
    const { middle, gateUp, kept } = this.layerToGateUp(step, layer, x, sequences, rows);
    const activated = swiglu(step, gateUp);
    const output = linear(step, activated, layer.down, null, { residual: middle });
    step.free(activated);
    return { output, kept };
  }

  /** A layer as far as backward needs it recomputed: to the pre-activations of the MLP. */
  private layerToGateUp(step: Step, layer: LlamaLayer, x: Tensor, sequences: Packed, rows: Tensor | null) {
    const eps = this.config.normEpsilon;
    const n1 = rmsNorm(step, x, layer.inputNorm, eps);
    const qkv = linear(step, n1.y, layer.qkv);
    step.free(n1.y);
    this.rotate(step, qkv, sequences, false);
    const attended = selfAttention(step, this.columns(qkv), sequences, this.attentionShape());
    const heads = rows ? gatherRows(step, attended.o, rows) : attended.o;
    const residual = rows ? gatherRows(step, x, rows) : x;
    const middle = linear(step, heads, layer.output, null, { residual });
    if (rows) for (const tensor of [heads, residual]) step.free(tensor);
    const n2 = rmsNorm(step, middle, layer.postAttentionNorm, eps);
    const gateUp = linear(step, n2.y, layer.gateUp);
    step.free(n2.y);
    const kept = [n1.rstd, qkv, attended.o, attended.lse, middle, n2.rstd, gateUp];
    return { kept, rstd1: n1.rstd, qkv, attended, middle, rstd2: n2.rstd, gateUp };
  }

  /**
   * Gradients of the virtual tokens from dHidden [B * outputs, d]: `dx` at every packed row's embedding [T, d]; pick
   * the prefix and suffix rows from it. Consumes `saved`.
   */
  backward(step: Step, saved: LlamaSaved, dHidden: Tensor): Tensor {
    const { batch, inputs, last, lastRstd } = saved;
    let dx = rmsNormGradient(step, dHidden, last, this.weights.finalNorm, lastRstd, null);
    for (const tensor of [last, lastRstd]) step.free(tensor);
    for (let i = this.weights.layers.length - 1; i >= 0; i--) {
      const rows = i === this.weights.layers.length - 1 ? batch.outputRows : null;
      const below = this.layerBackward(step, this.weights.layers[i], inputs[i], dx, batch.sequences, rows);
      step.free(dx);
      step.free(inputs[i]);
      dx = below;
    }
    return dx;
  }

  private layerBackward(
    step: Step,
    layer: LlamaLayer,
    x: Tensor,
    dOutput: Tensor,
    sequences: Packed,
    rows: Tensor | null,
  ): Tensor {
    const forward = this.layerToGateUp(step, layer, x, sequences, rows);
    const { middle, rstd2, attended, qkv, rstd1, gateUp } = forward;
    const dActivated = linearInputGradient(step, dOutput, layer.down);
    const dGateUp = swigluGradient(step, dActivated, gateUp);
    step.free(dActivated);
    const dn2 = linearInputGradient(step, dGateUp, layer.gateUp);
    step.free(dGateUp);
    let dMiddle = rmsNormGradient(step, dn2, middle, layer.postAttentionNorm, rstd2, null, dOutput);
    step.free(dn2);
    let dHeads = linearInputGradient(step, dMiddle, layer.output);
    if (rows) {
      // Rows that nothing read have no gradient.
      const spread = (tensor: Tensor) => {
        const all = scatterRows(step, tensor, rows, sequences.total);
        step.free(tensor);
        return all;
      };
      dHeads = spread(dHeads);
      dMiddle = spread(dMiddle);
    }
    const dqkv = step.tensor(qkv.shape);
    const shape = this.attentionShape();
    const into = this.columns(dqkv);
    const { o, lse } = attended;
    selfAttentionGradient(step, dHeads, o, lse, this.columns(qkv), sequences, shape, {
      dq: into.q,
      dk: into.k,
      dv: into.v,
    });
    step.free(dHeads);
    this.rotate(step, dqkv, sequences, true);
    const dn1 = linearInputGradient(step, dqkv, layer.qkv);
    step.free(dqkv);
    const dx = rmsNormGradient(step, dn1, x, layer.inputNorm, rstd1, null, dMiddle);
    for (const tensor of [dn1, dMiddle, ...forward.kept]) step.free(tensor);
    return dx;
  }

  private attentionShape() {
    const { heads, keyValueHeads, headSize } = this.config;
    return { heads, keyValueHeads, headSize, causal: true };
  }

  /** Query, key and value as columns of the fused projection [T, (H + 2G) h]. */
  private columns(tensor: Tensor) {
    const { heads, keyValueHeads, headSize } = this.config;
    const stride = (heads + 2 * keyValueHeads) * headSize;
    return {
      q: { tensor, offset: 0, stride },
      k: { tensor, offset: heads * headSize, stride },
      v: { tensor, offset: (heads + keyValueHeads) * headSize, stride },
    };
  }

  /** Rotary embedding of queries and keys in place: pairs (i, i + h/2), as Hugging Face orders the rows. */
  private rotate(step: Step, qkv: Tensor, sequences: Packed, inverse: boolean): void {
    const { heads, keyValueHeads, headSize, ropeTheta } = this.config;
    rope(step, qkv, sequences.positions, {
      heads: heads + keyValueHeads,
      headSize,
      stride: (heads + 2 * keyValueHeads) * headSize,
      offset: 0,
      layout: "half",
      rotaryDim: headSize,
      theta: ropeTheta,
      inverse,
    });
  }

  /** Ends the weights. */
  release(gpu: Gpu): void {
    const { embedding, layers, finalNorm } = this.weights;
    gpu.release(embedding);
    gpu.release(finalNorm);
    for (const layer of layers) for (const tensor of Object.values(layer) as Tensor[]) gpu.release(tensor);
  }
}
