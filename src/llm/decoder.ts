/**
 * The frozen decoder as one differentiable function of its virtual tokens: packed prompts in, the last hidden states
 * at the output rows out (after the final norm), and backwards the gradients at prefix and suffix. The weights
 * never change and never get gradients, so backward costs what forward does: dX = dY W. Each layer keeps only its
 * input; backward recomputes the rest, layer by layer. decoder-config.ts says what a layer is, decoder-parts.ts holds
 * its parts, architectures/ what differs between models.
 */
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { selfAttention, selfAttentionGradient } from "../ops/attention.ts";
import { gatherRows, scatterRows } from "../ops/embedding.ts";
import { headNorm, headNormGradient } from "../ops/head-norm.ts";
import type { Packed } from "../ops/packed.ts";
import { rope } from "../ops/rope.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import {
  activate,
  activateGradient,
  embedRows,
  type NormStatistics,
  norm,
  normInputGradient,
  project,
  projectInputGradient,
} from "./decoder-parts.ts";
import { type DecoderWeights, everyWeight, type LayerWeights } from "./decoder-weights.ts";
import type { PromptBatch } from "./prompt.ts";
import { frequenciesOf } from "./rotary.ts";

/** What backward needs of forward. */
export interface DecoderSaved {
  readonly batch: PromptBatch;
  /** The input of every layer [T, d]. */
  readonly inputs: readonly Tensor[];
  /** The hidden states at the output rows before the final norm, and that norm's statistics. */
  readonly last: Tensor;
  readonly lastStatistics: NormStatistics;
}

export class Decoder {
  private readonly frequencies: readonly number[];

  constructor(
    readonly config: DecoderConfig,
    readonly weights: DecoderWeights<Tensor>,
  ) {
    const { positions } = config;
    this.frequencies = positions.kind === "rotary" ? frequenciesOf(positions) : [];
  }

  /** d, the width of the hidden states. */
  get hiddenSize(): number {
    return this.config.hiddenSize;
  }

  /** Positions that the model can run: prefix, text and suffix together must fit. */
  get maxPositions(): number {
    return this.config.maxPositions;
  }

  /**
   * Hidden states at the output rows after the final norm: [rows, d]. prefix [B * L, d] or [L, d] (shared),
   * suffix [s, d]. With `keep`, also what backward needs; otherwise everything else is freed on the way. After the
   * last layer's attention only the output rows go on: nothing reads the others.
   *
   * @throws UserError when a sequence is longer than the model's positions.
   */
  forward(
    step: Step,
    batch: PromptBatch,
    prefix: Tensor | null,
    suffix: Tensor | null,
    keep: boolean,
  ): { hidden: Tensor; saved: DecoderSaved | null } {
    this.checkLength(batch);
    let x = embedRows(step, this.weights, batch, prefix, suffix);
    const inputs: Tensor[] = [];
    this.weights.layers.forEach((layer, i) => {
      const rows = i === this.weights.layers.length - 1 ? batch.outputRows : null;
      const { output, kept } = this.layerForward(step, layer, x, batch.sequences, rows);
      for (const tensor of kept) step.free(tensor);
      if (keep) inputs.push(x);
      else step.free(x);
      x = output;
    });
    const { y: hidden, statistics } = norm(step, this.config, x, this.weights.finalNorm);
    if (keep) return { hidden, saved: { batch, inputs, last: x, lastStatistics: statistics } };
    for (const tensor of [x, ...statistics]) step.free(tensor);
    return { hidden, saved: null };
  }

  /** All hidden states after the final norm [T, d] (tests and dumps). */
  hiddenStates(step: Step, batch: PromptBatch, prefix: Tensor | null, suffix: Tensor | null): Tensor {
    this.checkLength(batch);
    let x = embedRows(step, this.weights, batch, prefix, suffix);
    for (const layer of this.weights.layers) {
      const { output, kept } = this.layerForward(step, layer, x, batch.sequences, null);
      for (const tensor of [x, ...kept]) step.free(tensor);
      x = output;
    }
    return norm(step, this.config, x, this.weights.finalNorm).y;
  }

  private checkLength({ sequences }: PromptBatch): void {
    const { architecture, maxPositions, positionLimit } = this.config;
    if (sequences.longest <= maxPositions) return;
    throw new UserError(
      `a sequence of ${sequences.longest} tokens, virtual ones among them: this ${architecture} runs at most ${maxPositions} (its ${positionLimit}); use shorter texts or fewer virtual tokens`,
    );
  }

  /**
   * x + attention(norm(x)), then + mlp(norm(.)): pre-norm residuals. x [T, d]; the output has the rows `rows` of it,
   * or all. `kept` holds every intermediate that backward uses.
   */
  private layerForward(
    step: Step,
    layer: LayerWeights<Tensor>,
    x: Tensor,
    sequences: Packed,
    rows: Tensor | null,
  ) {
    const { middle, up, kept } = this.layerToActivation(step, layer, x, sequences, rows);
    const activated = activate(step, this.config, up);
    const output = project(step, this.config, activated, layer.down, middle);
    step.free(activated);
    return { output, kept };
  }

  /** A layer as far as backward needs it recomputed: to the input of the MLP's activation. */
  private layerToActivation(
    step: Step,
    layer: LayerWeights<Tensor>,
    x: Tensor,
    sequences: Packed,
    rows: Tensor | null,
  ) {
    const { config } = this;
    const n1 = norm(step, config, x, layer.inputNorm);
    const qkv = project(step, config, n1.y, layer.qkv);
    step.free(n1.y);
    const turned = this.turnHeads(step, layer, qkv, sequences);
    const attended = selfAttention(step, this.columns(turned, qkv), sequences, this.attentionShape());
    const heads = rows ? gatherRows(step, attended.o, rows) : attended.o;
    const residual = rows ? gatherRows(step, x, rows) : x;
    const middle = project(step, config, heads, layer.output, residual);
    if (rows) for (const tensor of [heads, residual]) step.free(tensor);
    const n2 = norm(step, config, middle, layer.mlpNorm);
    const up = project(step, config, n2.y, layer.up);
    step.free(n2.y);
    const projected = turned === qkv ? [qkv] : [qkv, turned];
    const kept = [...n1.statistics, ...projected, attended.o, attended.lse, middle, ...n2.statistics, up];
    return {
      kept,
      statistics1: n1.statistics,
      qkv,
      turned,
      attended,
      middle,
      statistics2: n2.statistics,
      up,
    };
  }

  /**
   * Gradients of the virtual tokens from dHidden [output rows, d]: `dx` at every packed row's embedding [T, d]; pick
   * the prefix and suffix rows from it. Consumes `saved`.
   */
  backward(step: Step, saved: DecoderSaved, dHidden: Tensor): Tensor {
    const { batch, inputs, last, lastStatistics } = saved;
    const { finalNorm, layers } = this.weights;
    let dx = normInputGradient(step, dHidden, last, finalNorm, lastStatistics, null);
    for (const tensor of [last, ...lastStatistics]) step.free(tensor);
    for (let i = layers.length - 1; i >= 0; i--) {
      const rows = i === layers.length - 1 ? batch.outputRows : null;
      const below = this.layerBackward(step, layers[i], inputs[i], dx, batch.sequences, rows);
      step.free(dx);
      step.free(inputs[i]);
      dx = below;
    }
    return dx;
  }

  private layerBackward(
    step: Step,
    layer: LayerWeights<Tensor>,
    x: Tensor,
    dOutput: Tensor,
    sequences: Packed,
    rows: Tensor | null,
  ): Tensor {
    const { config } = this;
    const forward = this.layerToActivation(step, layer, x, sequences, rows);
    const { middle, statistics2, attended, qkv, turned, statistics1, up } = forward;
    const dActivated = projectInputGradient(step, config, dOutput, layer.down);
    const dUp = activateGradient(step, config, dActivated, up);
    step.free(dActivated);
    const dn2 = projectInputGradient(step, config, dUp, layer.up);
    step.free(dUp);
    let dMiddle = normInputGradient(step, dn2, middle, layer.mlpNorm, statistics2, dOutput);
    step.free(dn2);
    let dHeads = projectInputGradient(step, config, dMiddle, layer.output);
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
    const dTurned = turned === qkv ? dqkv : step.tensor(turned.shape);
    const into = this.columns(dTurned, dqkv);
    const inputs = this.columns(turned, qkv);
    const { o, lse } = attended;
    selfAttentionGradient(step, dHeads, o, lse, inputs, sequences, this.attentionShape(), {
      dq: into.q,
      dk: into.k,
      dv: into.v,
    });
    step.free(dHeads);
    this.turnHeadsBack(step, layer, dTurned, qkv, dqkv, sequences);
    const dn1 = projectInputGradient(step, config, dqkv, layer.qkv);
    step.free(dqkv);
    const dx = normInputGradient(step, dn1, x, layer.inputNorm, statistics1, dMiddle);
    for (const tensor of [dn1, dMiddle, ...forward.kept]) step.free(tensor);
    return dx;
  }

  private attentionShape() {
    const { heads, keyValueHeads, headSize } = this.config;
    return { heads, keyValueHeads, headSize, causal: true };
  }

  /**
   * Query and key as columns of `turned`, which begins with query | key, and value as columns of the fused projection
   * [T, (H + 2G) h]. Both are one tensor unless heads are normalised.
   */
  private columns(turned: Tensor, qkv: Tensor) {
    const { heads, keyValueHeads, headSize } = this.config;
    const stride = turned.shape[1];
    return {
      q: { tensor: turned, offset: 0, stride },
      k: { tensor: turned, offset: heads * headSize, stride },
      v: { tensor: qkv, offset: (heads + keyValueHeads) * headSize, stride: qkv.shape[1] },
    };
  }

  /**
   * Queries and keys as attention reads them: normalised by head into a tensor [T, (H + G) h] where the model does
   * that, and rotated where it does. Without a norm they stay where they are, in qkv.
   */
  private turnHeads(step: Step, layer: LayerWeights<Tensor>, qkv: Tensor, sequences: Packed): Tensor {
    const { config } = this;
    const weight = layer.queryKeyNorm;
    const turned = weight ? headNorm(step, qkv, weight, config, config.norm.epsilon) : qkv;
    this.rotate(step, turned, sequences, false);
    return turned;
  }

  /** The gradient of `turnHeads`, from dTurned into the query and key columns of dqkv. Frees dTurned if it is another. */
  private turnHeadsBack(
    step: Step,
    layer: LayerWeights<Tensor>,
    dTurned: Tensor,
    qkv: Tensor,
    dqkv: Tensor,
    sequences: Packed,
  ): void {
    const { config } = this;
    this.rotate(step, dTurned, sequences, true);
    if (!layer.queryKeyNorm) return;
    headNormGradient(step, dTurned, qkv, layer.queryKeyNorm, config, config.norm.epsilon, dqkv);
    step.free(dTurned);
  }

  /** Rotary embedding of queries and keys in place, where the model has it. */
  private rotate(step: Step, turned: Tensor, sequences: Packed, inverse: boolean): void {
    const { heads, keyValueHeads, headSize, positions } = this.config;
    if (positions.kind !== "rotary") return;
    rope(step, turned, sequences.positions, {
      heads: heads + keyValueHeads,
      headSize,
      stride: turned.shape[1],
      offset: 0,
      layout: positions.layout,
      frequencies: this.frequencies,
      inverse,
    });
  }

  /** Ends the weights. */
  release(gpu: Gpu): void {
    for (const tensor of everyWeight(this.weights)) gpu.release(tensor);
  }
}
