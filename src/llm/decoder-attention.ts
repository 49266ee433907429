/**
 * Attention of a decoder layer, from the fused projection to the heads' outputs and back: norms of query and key heads
 * where the model has them, rotary positions where it has them, then causal attention of the packed sequences.
 */
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { type SelfAttentionShape, selfAttention, selfAttentionGradient } from "../ops/attention.ts";
import { headNorm, headNormGradient } from "../ops/head-norm.ts";
import type { Packed } from "../ops/packed.ts";
import { rope } from "../ops/rope.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { frequenciesOf } from "./rotary.ts";

/** What attention gives, and its gradient needs beside qkv. */
export interface DecoderAttended {
  /** [T, H h]. */
  readonly o: Tensor;
  /** [T, H]. */
  readonly lse: Tensor;
  /** Query | key as they were read: qkv itself, or normalised in a tensor [T, (H + G) h] of their own. */
  readonly turned: Tensor;
}

export class DecoderAttention {
  private readonly frequencies: readonly number[];
  private readonly shape: SelfAttentionShape;

  /** `half`: see HeadShape. */
  constructor(
    private readonly config: DecoderConfig,
    half: boolean,
  ) {
    const { heads, keyValueHeads, headSize, positions } = config;
    this.shape = { heads, keyValueHeads, headSize, causal: true, half };
    this.frequencies = positions.kind === "rotary" ? frequenciesOf(positions) : [];
  }

  /**
   * qkv [T, (H + 2G) h] is query | key | value; `norms` [2 h] the weights of the head norms, or null. Without norms,
   * queries and keys are rotated where they are, in qkv.
   */
  forward(step: Step, qkv: Tensor, norms: Tensor | null, sequences: Packed): DecoderAttended {
    const { config } = this;
    const turned = norms ? headNorm(step, qkv, norms, config, config.norm.epsilon) : qkv;
    this.rotate(step, turned, sequences, false);
    return { ...selfAttention(step, this.columns(turned, qkv), sequences, this.shape), turned };
  }

  /** The gradient at qkv [T, (H + 2G) h], given dO [T, H h]. */
  backward(
    step: Step,
    dO: Tensor,
    qkv: Tensor,
    { o, lse, turned }: DecoderAttended,
    norms: Tensor | null,
    sequences: Packed,
  ): Tensor {
    const { config } = this;
    const dqkv = step.tensor(qkv.shape);
    const dTurned = norms ? step.tensor(turned.shape) : dqkv;
    const { q, k, v } = this.columns(dTurned, dqkv);
    const into = { dq: q, dk: k, dv: v };
    selfAttentionGradient(step, dO, o, lse, this.columns(turned, qkv), sequences, this.shape, into);
    this.rotate(step, dTurned, sequences, true);
    if (norms) {
      headNormGradient(step, dTurned, qkv, norms, config, config.norm.epsilon, dqkv);
      step.free(dTurned);
    }
    return dqkv;
  }

  /** Query and key as columns of `turned`, which begins with query | key, and value as columns of qkv. */
  private columns(turned: Tensor, qkv: Tensor) {
    const { heads, keyValueHeads, headSize } = this.config;
    const stride = turned.shape[1];
    return {
      q: { tensor: turned, offset: 0, stride },
      k: { tensor: turned, offset: heads * headSize, stride },
      v: { tensor: qkv, offset: (heads + keyValueHeads) * headSize, stride: qkv.shape[1] },
    };
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
}
