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
  /** u32 [B * s]: the packed rows of the suffix tokens, or without a suffix of every sequence's last token. */
  readonly outputRows: Tensor;
  /** Output rows a sequence. */
  readonly outputs: number;
  readonly batch: number;
}

export interface PromptShape {
  /** L: prefix tokens a sequence (0: none). */
  readonly prefix: number;
  /** Whether all sequences share one prefix [L, d] (free vectors) instead of having their own [B * L, d]. */
  readonly sharedPrefix: boolean;
  /** s: suffix tokens a sequence (0: the hidden state of the last text token is the output). */
  readonly suffix: number;
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
  const outputs = Math.max(1, shape.suffix);
  const outputRows = new Uint32Array(texts.length * outputs);
  let row = 0;
  texts.forEach((text, b) => {
    for (let i = 0; i < shape.prefix; i++) {
      prefixRows[b * shape.prefix + i] = row;
      source[row++] = PREFIX_ROW | ((shape.sharedPrefix ? 0 : b * shape.prefix) + i);
    }
    for (let i = 0; i < text.length; i++) source[row++] = text[i];
    for (let i = 0; i < shape.suffix; i++) {
      outputRows[b * outputs + i] = row;
      source[row++] = SUFFIX_ROW | i;
    }
    if (shape.suffix === 0) outputRows[b] = row - 1;
  });
  return {
    sequences,
    source: step.upload(source),
    prefixRows: shape.prefix ? step.upload(prefixRows) : null,
    outputRows: step.upload(outputRows),
    outputs,
    batch: texts.length,
  };
}
