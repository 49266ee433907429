/**
 * What the frozen decoder (decoder.ts) needs to know of a model. Every architecture is described by these values:
 *
 *     x = embedding[ids]  (+ position[t], when positions are learned)
 *     N times:  x += output(attention(rotate(qkv(norm(x)))))
 *               x += down(activation(up(norm(x))))
 *     h = norm(x)
 */
import type { RopeLayout } from "../ops/rope.ts";

/** How frequencies are stretched for contexts beyond the first training's (config.json: rope_type "llama3"). */
export interface Llama3Scaling {
  readonly factor: number;
  readonly lowFrequencyFactor: number;
  readonly highFrequencyFactor: number;
  readonly originalPositions: number;
}

/** Rotary positions (Su et al. 2021) of queries and keys. */
export interface Rotary {
  readonly kind: "rotary";
  /** Which elements of a head form pairs. */
  readonly layout: RopeLayout;
  /** The first elements of each head that are rotated; even. */
  readonly dimensions: number;
  /** Pair i turns by theta^(-2i / dimensions) a position. */
  readonly theta: number;
  readonly scaling: Llama3Scaling | null;
}

export interface DecoderConfig {
  /** The class that config.json names; the key of the table of architectures. */
  readonly architecture: string;
  /** d, the width of the hidden states. */
  readonly hiddenSize: number;
  /** N, decoder layers. */
  readonly layers: number;
  /** H, query heads. */
  readonly heads: number;
  /** G, key/value heads; each is read by H / G query heads (grouped-query attention when G < H). */
  readonly keyValueHeads: number;
  /** h, dimensions a head. H h may differ from d. */
  readonly headSize: number;
  /** F, the width of the MLP's hidden layer. */
  readonly intermediateSize: number;
  /** V, rows of the token embedding. */
  readonly vocabularySize: number;
  /** Positions that it can run: prefix, text and suffix together must fit. */
  readonly maxPositions: number;
  /** The field of config.json that says so, for messages. */
  readonly positionLimit: string;
  /** The norms before attention, before the MLP and at the end. */
  readonly norm: { readonly kind: "rms" | "layer"; readonly epsilon: number };
  /** Where positions enter: a table added to the embeddings, or rotations of queries and keys. */
  readonly positions: Rotary | { readonly kind: "learned" };
  /** An RMS norm of every query and key head by itself, before the rotation. */
  readonly queryKeyNorm: boolean;
  /** `swiglu`: silu(gate) * up; `gelu`: the tanh approximation, without a gate. */
  readonly mlp: "swiglu" | "gelu";
  /** The end-of-sequence token (of several, the first); absent when config.json names none. */
  readonly endId?: number;
  /** Which linear layers have a bias. */
  readonly biases: "none" | "qkv" | "all";
  /**
   * How linear weights lie in the checkpoint, and so in GPU memory: [out, in], or as GPT-2's Conv1D [in, out].
   * Quantised, they always lie [out, in] in GPU memory: the columns that share a scale are inputs.
   */
  readonly linear: "out-in" | "in-out";
}

/** Columns of the fused projection: query | key | value, (H + 2G) h. */
export function projectionWidth({ heads, keyValueHeads, headSize }: DecoderConfig): number {
  return (heads + 2 * keyValueHeads) * headSize;
}

/** Columns of the MLP's first product: gate | up, or up alone. */
export function upWidth({ mlp, intermediateSize }: DecoderConfig): number {
  return mlp === "swiglu" ? 2 * intermediateSize : intermediateSize;
}
