import type { Step } from "../../gpu/step.ts";
import { Tensor } from "../../gpu/tensor.ts";
import { packWeights, type WeightStorage } from "../../llm/weight-stream.ts";

/** Uploads a frozen weight in the storage asked for. */
export function uploadWeight(
  step: Step,
  values: Float32Array<ArrayBuffer>,
  shape: readonly number[],
  storage: WeightStorage,
): Tensor {
  const { buffer, offset, bufferId } = step.upload(packWeights(values, shape[shape.length - 1], storage));
  return new Tensor(buffer, offset, shape, storage, bufferId);
}
