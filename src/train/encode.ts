import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Laser } from "../laser/laser.ts";
import type { TokenizedText } from "../laser/text.ts";
import type { Progress } from "./progress.ts";

/** GPU steps in flight while the host packs the next one. */
const IN_FLIGHT = 2;

/**
 * Groups indexes into batches of at most `budget` tokens (virtual ones included), longest first, so that a batch's
 * sequences are of like length.
 */
export function tokenBatches(lengths: readonly number[], budget: number): number[][] {
  const order = lengths.map((_, i) => i).sort((a, b) => lengths[b] - lengths[a] || a - b);
  const batches: number[][] = [];
  let batch: number[] = [];
  let tokens = 0;
  for (const i of order) {
    if (batch.length && tokens + lengths[i] > budget) {
      batches.push(batch);
      batch = [];
      tokens = 0;
    }
    batch.push(i);
    tokens += lengths[i];
  }
  if (batch.length) batches.push(batch);
  return batches;
}

/**
 * Encodes texts without gradients: row i of the result [n, d] is the normalised embedding of text i. While the GPU
 * works on one batch the next is packed, and results are read back as they come.
 */
export async function encodeAll(
  gpu: Gpu,
  laser: Laser,
  texts: readonly TokenizedText[],
  budget: number,
  progress: Progress,
  label: string,
): Promise<Float32Array<ArrayBuffer>> {
  const width = laser.backbone.hiddenSize;
  const result = new Float32Array(texts.length * width);
  const batches = tokenBatches(
    texts.map((text) => text.ids.length + laser.addedTokens),
    budget,
  );
  progress.begin(label, texts.length, "texts");
  let done = 0;
  const pending: Promise<void>[] = [];
  for (const batch of batches) {
    const members = batch.map((i) => texts[i]);
    if (done === 0 && pending.length === 0) await gpu.warm((step) => void laser.encode(step, members));
    const step = gpu.step("encode");
    const rows = step.readFloats(laser.encode(step, members));
    const finished = step.submit();
    pending.push(
      finished.then(async () => {
        const values = await rows;
        batch.forEach((i, row) => {
          result.set(values.subarray(row * width, (row + 1) * width), i * width);
        });
        done += batch.length;
        progress.update(done);
      }),
    );
    if (pending.length >= IN_FLIGHT) await pending.shift();
  }
  await Promise.all(pending);
  progress.end();
  for (let i = 0; i < result.length; i++) {
    if (!Number.isFinite(result[i])) {
      throw new UserError(
        `text ${Math.floor(i / width)} has an embedding that is not finite; the training has diverged: lower --learning-rate or set --clip`,
      );
    }
  }
  return result;
}
