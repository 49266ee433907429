/**
 * The frozen decoder as one differentiable function of its virtual tokens: packed prompts in, the last hidden states
 * at the output rows out (after the final norm), and backwards the gradients at prefix and suffix. The weights
 * never change and never get gradients, so backward costs what forward does: dX = dY W. Each layer keeps only its
 * input; backward recomputes the rest, layer by layer. decoder-config.ts says what a layer is, decoder-parts.ts and
 * decoder-attention.ts hold its parts, architectures/ what differs between models.
 */
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { gatherRows, scatterRows } from "../ops/embedding.ts";
import type { Packed } from "../ops/packed.ts";
import { attendedTensors, DecoderAttention } from "./decoder-attention.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import {
  activatedInputGradient,
  embedRows,
  type NormStatistics,
  norm,
  normInputGradient,
  project,
  projectActivated,
  projectInputGradient,
  projectNormed,
} from "./decoder-parts.ts";
import { type DecoderWeights, everyWeight, type LayerWeights } from "./decoder-weights.ts";
import type { PromptBatch } from "./prompt.ts";

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
  private readonly attention: DecoderAttention;

  constructor(
    readonly config: DecoderConfig,
    readonly weights: DecoderWeights<Tensor>,
  ) {
    // Where weights have fewer bits than f32, attention may multiply f16 too.
    this.attention = new DecoderAttention(config, weights.layers[0]?.qkv.weight.dtype !== "f32");
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
    const output = projectActivated(step, this.config, up, layer.down, middle);
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
    const { y: qkv, statistics: statistics1 } = projectNormed(step, config, x, layer.inputNorm, layer.qkv);
    const attended = this.attention.forward(step, qkv, layer.queryKeyNorm, sequences);
    const heads = rows ? gatherRows(step, attended.o, rows) : attended.o;
    const residual = rows ? gatherRows(step, x, rows) : x;
    const middle = project(step, config, heads, layer.output, residual);
    if (rows) for (const tensor of [heads, residual]) step.free(tensor);
    const { y: up, statistics: statistics2 } = projectNormed(step, config, middle, layer.mlpNorm, layer.up);
    const kept = [...statistics1, ...attendedTensors(attended), middle, ...statistics2, up];
    return {
      kept,
      statistics1,
      attended,
      middle,
      statistics2,
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
    const { middle, statistics2, attended, statistics1, up } = forward;
    const dActivated = projectInputGradient(step, config, dOutput, layer.down);
    const dn2 = activatedInputGradient(step, config, dActivated, up, layer.up);
    step.free(dActivated);
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
    const dn1 = this.attention.backward(step, dHeads, attended, layer, sequences);
    step.free(dHeads);
    const dx = normInputGradient(step, dn1, x, layer.inputNorm, statistics1, dMiddle);
    for (const tensor of [dn1, dMiddle, ...forward.kept]) step.free(tensor);
    return dx;
  }

  /** Ends the weights. */
  release(gpu: Gpu): void {
    for (const tensor of everyWeight(this.weights)) gpu.release(tensor);
  }
}
