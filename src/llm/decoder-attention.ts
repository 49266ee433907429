/**
 * Attention of a decoder layer, from the fused projection to the heads' outputs and back to the gradient at what was
 * projected: norms of query and key heads where the model has them, rotary positions where it has them, then causal
 * attention of the packed sequences. On tensor cores heads are rotated while they are packed to f16, and gradients rotated
 * back while the rows of the next product are packed; elsewhere rotation is a kernel of its own, in place.
 */
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { attendHeads, attendHeadsGradient } from "../ops/attend-matrix.ts";
import { type SelfAttentionShape, selfAttention, selfAttentionGradient } from "../ops/attention.ts";
import { fusedLinear, fusedWeight } from "../ops/fused-linear.ts";
import { headNorm, headNormGradient } from "../ops/head-norm.ts";
import { headLayoutOf, type PackedHeads, packHeads } from "../ops/pack-heads.ts";
import type { Packed } from "../ops/packed.ts";
import { type Rotation, rope, ropeAngles } from "../ops/rope.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { projectInputGradient } from "./decoder-parts.ts";
import type { LayerWeights } from "./decoder-weights.ts";
import { frequenciesOf } from "./rotary.ts";

/** Queries, keys and values as attention read them. */
type HeadsRead =
  /** Packed for tensor cores; qkv as it was projected where the head norms' gradient reads it, else null. */
  | { readonly kind: "packed"; readonly heads: PackedHeads; readonly qkv: Tensor | null }
  /** Columns of two tensors: query | key, normalised and rotated, [T, (H + G) h] or qkv itself; value in qkv [T, (H + 2G) h]. */
  | { readonly kind: "columns"; readonly queryKey: Tensor; readonly qkv: Tensor };

/** What attention gives, and what its gradient needs. */
export interface DecoderAttended {
  /** [T, H h]. */
  readonly o: Tensor;
  /** [T, H]. */
  readonly lse: Tensor;
  readonly read: HeadsRead;
}

/** Every tensor of it, to be freed after use. */
export function attendedTensors({ o, lse, read }: DecoderAttended): Tensor[] {
  if (read.kind === "columns") return [...new Set([o, lse, read.queryKey, read.qkv])];
  return read.qkv ? [o, lse, read.heads.tensor, read.qkv] : [o, lse, read.heads.tensor];
}

export class DecoderAttention {
  private readonly rotation: Rotation | null;
  private readonly shape: SelfAttentionShape;

  /** `half`: queries, keys, values, probabilities and their gradients may be rounded to f16, as tensor cores multiply. */
  constructor(
    private readonly config: DecoderConfig,
    private readonly half: boolean,
  ) {
    const { heads, keyValueHeads, headSize, positions } = config;
    this.shape = { heads, keyValueHeads, headSize, causal: true };
    this.rotation =
      positions.kind === "rotary"
        ? { layout: positions.layout, frequencies: frequenciesOf(positions) }
        : null;
  }

  /** qkv [T, (H + 2G) h] is query | key | value, and is consumed; `norms` [2 h] the weights of the head norms, or null. */
  forward(step: Step, qkv: Tensor, norms: Tensor | null, sequences: Packed): DecoderAttended {
    const { config, rotation, shape } = this;
    const queryKey = norms ? headNorm(step, qkv, norms, config, config.norm.epsilon) : qkv;
    const inputs = this.columns(queryKey, qkv);
    const layout = this.half ? headLayoutOf(step, shape.headSize) : null;
    if (!layout) {
      this.rotate(step, queryKey, sequences, false);
      return { ...selfAttention(step, inputs, sequences, shape), read: { kind: "columns", queryKey, qkv } };
    }
    const { positions } = sequences;
    const heads = packHeads(
      step,
      inputs,
      sequences.total,
      shape,
      layout,
      rotation && { rotation, positions },
    );
    step.free(queryKey);
    const read = { kind: "packed", heads, qkv: norms ? qkv : null } as const;
    return { ...attendHeads(step, heads, sequences, true), read };
  }

  /** The gradient at the rows x [T, d] that `layer.qkv` projected, given dO [T, H h]. */
  backward(
    step: Step,
    dO: Tensor,
    attended: DecoderAttended,
    layer: LayerWeights<Tensor>,
    sequences: Packed,
  ): Tensor {
    const { config, shape } = this;
    const { heads, keyValueHeads, headSize } = shape;
    const { total } = sequences;
    const norms = layer.queryKeyNorm;
    const dqkv = step.tensor([total, (heads + 2 * keyValueHeads) * headSize]);
    const dQueryKey = norms ? step.tensor([total, (heads + keyValueHeads) * headSize]) : dqkv;
    const { q: dq, k: dk, v: dv } = this.columns(dQueryKey, dqkv);
    const into = { dq, dk, dv };
    const { o, lse, read } = attended;
    if (read.kind === "packed") {
      attendHeadsGradient(step, dO, attended, read.heads, sequences, true, into);
    } else {
      const inputs = this.columns(read.queryKey, read.qkv);
      selfAttentionGradient(step, dO, o, lse, inputs, sequences, shape, into);
    }
    if (!norms || !read.qkv) return this.projectRotatedBack(step, dqkv, layer, sequences);
    this.rotate(step, dQueryKey, sequences, true);
    headNormGradient(step, dQueryKey, read.qkv, norms, config, config.norm.epsilon, dqkv);
    step.free(dQueryKey);
    const dx = projectInputGradient(step, config, dqkv, layer.qkv);
    step.free(dqkv);
    return dx;
  }

  /** dx = dqkv W of the gradient dqkv at rotated queries and keys, which is consumed. */
  private projectRotatedBack(
    step: Step,
    dqkv: Tensor,
    { qkv }: LayerWeights<Tensor>,
    sequences: Packed,
  ): Tensor {
    const { config, rotation } = this;
    const { heads, keyValueHeads, headSize } = this.shape;
    const fused = rotation && fusedWeight(step, qkv.weight, sequences.total, config.linear !== "out-in");
    let dx: Tensor;
    if (fused) {
      const angles = ropeAngles(step, sequences.positions, rotation.frequencies);
      const { layout } = rotation;
      const turnedWidth = (heads + keyValueHeads) * headSize;
      const source = { form: "turnedBack", a: dqkv, angles, layout, headSize, turnedWidth } as const;
      dx = fusedLinear(step, source, sequences.total, fused);
    } else {
      this.rotate(step, dqkv, sequences, true);
      dx = projectInputGradient(step, config, dqkv, qkv);
    }
    step.free(dqkv);
    return dx;
  }

  /** Query and key as columns of `queryKey`, which begins with them, and value as columns of qkv. */
  private columns(queryKey: Tensor, qkv: Tensor) {
    const { heads, keyValueHeads, headSize } = this.config;
    const stride = queryKey.shape[1];
    return {
      q: { tensor: queryKey, offset: 0, stride },
      k: { tensor: queryKey, offset: heads * headSize, stride },
      v: { tensor: qkv, offset: (heads + keyValueHeads) * headSize, stride: qkv.shape[1] },
    };
  }

  /** Rotary embedding of queries and keys in place, where the model has it. */
  private rotate(step: Step, queryKey: Tensor, sequences: Packed, inverse: boolean): void {
    const { heads, keyValueHeads, headSize } = this.config;
    if (!this.rotation) return;
    rope(step, queryKey, sequences.positions, {
      ...this.rotation,
      heads: heads + keyValueHeads,
      headSize,
      stride: queryKey.shape[1],
      offset: 0,
      inverse,
    });
  }
}
