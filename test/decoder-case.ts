/** One forward and backward pass of a frozen decoder, as test/decoder.test.ts and test/attention-matrix.test.ts run it. */
import type { Gpu } from "../src/gpu/device.ts";
import type { Decoder } from "../src/llm/decoder.ts";
import { promptBatch } from "../src/llm/prompt.ts";
import { gatherRows } from "../src/ops/embedding.ts";
import { noise } from "./close.ts";

/** Virtual tokens before and after every text. */
export const PREFIX = 2;
export const SUFFIX = 1;

export interface DecoderResult {
  /** [B, d]. */
  readonly hidden: Float32Array;
  /** [B, PREFIX + SUFFIX, d]: the gradients at every sequence's virtual tokens. */
  readonly gradients: Float32Array;
}

/** Forward and backward of some sequences in one packed call; sequence b's prefix and dh come from its key. */
export async function runDecoder(
  on: Gpu,
  decoder: Decoder,
  texts: readonly Uint32Array[],
  keys: readonly number[],
): Promise<DecoderResult> {
  const d = decoder.hiddenSize;
  const each = (size: number, seed: number) =>
    Float32Array.from(keys.flatMap((key) => [...noise(size, 100 * key + seed)]));
  const step = on.step("decoder");
  const batch = promptBatch(step, texts, { prefix: PREFIX, sharedPrefix: false, suffix: SUFFIX });
  const prefix = step.upload(each(PREFIX * d, 1), [texts.length * PREFIX, d]);
  const suffix = step.upload(noise(SUFFIX * d, 2), [SUFFIX, d]);
  const { hidden, saved } = decoder.forward(step, batch, prefix, suffix, true);
  const dx = decoder.backward(step, saved!, step.upload(each(d, 3), [texts.length, d]));
  const rows = [batch.prefixRows!, batch.outputRows!].map((rows) => gatherRows(step, dx, rows));
  const reads = [hidden, ...rows].map((tensor) => step.readFloats(tensor));
  await step.submit();
  const [h, atPrefix, atSuffix] = await Promise.all(reads);
  const gradients = texts.flatMap((_, b) => [
    ...atPrefix.subarray(b * PREFIX * d, (b + 1) * PREFIX * d),
    ...atSuffix.subarray(b * SUFFIX * d, (b + 1) * SUFFIX * d),
  ]);
  return { hidden: h, gradients: Float32Array.from(gradients) };
}

/** Token ids of a text. */
export const ids = (length: number, vocabulary: number) =>
  Uint32Array.from({ length }, (_, i) => (7 * i + 3) % vocabulary);
