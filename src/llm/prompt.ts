import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { PREFIX_ROW, SUFFIX_ROW } from "../ops/embedding.ts";
import { type Packed, packed } from "../ops/packed.ts";

/**
 * A batch of inputs of the language model (Eq. 1): every sequence is [prefix (L)] [text (W)] [suffix (s)], packed end
 * to end; positions run 0 .. L + W + s - 1.
 */
export interface PromptBatch {
  readonly sequences: Packed;
  /** u32 [total]: for every row the token id, or the row of the prefix or suffix tensor (see ops/embedding.ts). */
  readonly source: Tensor;
  /** u32 [B * L]: the packed rows of the prefix tokens; null without a prefix. */
  readonly prefixRows: Tensor | null;
  /** u32 [B * s]: the packed rows of the suffix tokens; null without a suffix. */
  readonly suffixRows: Tensor | null;
  /** u32: the packed rows whose hidden states are wanted, in order; null when it is all of them. */
  readonly outputRows: Tensor | null;
}

export interface PromptShape {
  /** L: prefix tokens a sequence (0: none). */
  readonly prefix: number;
  /** Whether all sequences share one prefix [L, d] (free vectors) instead of having their own [B * L, d]. */
  readonly sharedPrefix: boolean;
  /** s: suffix tokens a sequence. */
  readonly suffix: number;
  /**
   * Whose hidden states are the output: every sequence's last token (the suffix tokens, where there are any), or every
   * row's. Default: `last`.
   */
  readonly outputs?: "last" | "all";
}

/** Packs texts (token ids with the tokenizer's leading special tokens) with their virtual tokens and uploads them. */
export function promptBatch(
  step: Step,
  texts: readonly ArrayLike<number>[],
  shape: PromptShape,
): PromptBatch {
  const lengths = texts.map((text) => shape.prefix + text.length + shape.suffix);
  const sequences = packed(step, lengths);
  const source = new Uint32Array(sequences.total);
  const prefixRows = new Uint32Array(texts.length * shape.prefix);
  const lastTokens = Math.max(1, shape.suffix);
  const lastRows = new Uint32Array(texts.length * lastTokens);
  let row = 0;
  texts.forEach((text, b) => {
    for (let i = 0; i < shape.prefix; i++) {
      prefixRows[b * shape.prefix + i] = row;
      source[row++] = PREFIX_ROW | ((shape.sharedPrefix ? 0 : b * shape.prefix) + i);
    }
    for (let i = 0; i < text.length; i++) source[row++] = text[i];
    for (let i = 0; i < shape.suffix; i++) source[row++] = SUFFIX_ROW | i;
    for (let i = 0; i < lastTokens; i++) lastRows[b * lastTokens + i] = row - lastTokens + i;
  });
  const last = step.upload(lastRows);
  return {
    sequences,
    source: step.upload(source),
    prefixRows: shape.prefix ? step.upload(prefixRows) : null,
    suffixRows: shape.suffix ? last : null,
    outputRows: shape.outputs === "all" ? null : last,
  };
}
