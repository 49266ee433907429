import { floatsToHalves, packHalves } from "../../files/half.ts";
import type { Step } from "../../gpu/step.ts";
import { Tensor } from "../../gpu/tensor.ts";
import type { WeightStorage } from "../../llm/weight-stream.ts";

/** Uploads a frozen weight in the storage asked for: f32, or rounded to f16 and packed in pairs. */
export function uploadWeight(
  step: Step,
  values: Float32Array<ArrayBuffer>,
  shape: readonly number[],
  storage: WeightStorage,
): Tensor {
  if (storage === "f32") return step.upload(values, shape);
  const words = step.upload(new Uint32Array(packHalves(floatsToHalves(values).halves)));
  return new Tensor(words.buffer, words.offset, shape, "f16", words.bufferId);
}
