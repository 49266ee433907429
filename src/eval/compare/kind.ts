import type { Gpu } from "../../gpu/device.ts";
import type { Step } from "../../gpu/step.ts";
import type { Decoder } from "../../llm/decoder.ts";
import type { WeightStorage } from "../../llm/weight-stream.ts";
import { KERNEL_F32, MODEL_F32, STORAGE } from "../tolerances.ts";
import type { Dump } from "./dump.ts";
import { Outputs } from "./outputs.ts";

/** What every case runs with. */
export interface Context {
  readonly gpu: Gpu;
  /** How frozen weights lie on the GPU. */
  readonly weights: WeightStorage;
  /** The frozen model that a dump's param `checkpoint` names. */
  backbone(dump: Dump): Promise<Decoder>;
}

/** One kind of dump: runs this project on the inputs. */
export interface Kind {
  tolerance(weights: WeightStorage): number;
  run(context: Context, dump: Dump): Promise<Outputs>;
}

/** A kind that one kernel, or a few, compute in a single step. */
export function kernelKind(
  record: (step: Step, dump: Dump, outputs: Outputs, context: Context) => void,
  options: { readonly hasWeights?: boolean } = {},
): Kind {
  return {
    tolerance: (weights) => (options.hasWeights ? STORAGE[weights].kernel : KERNEL_F32),
    run: async (context, dump) => {
      // A dry run first: it checks the inputs, and compiles the kernels of the case in parallel.
      await context.gpu.warm((step) => record(step, dump, new Outputs(dump), context));
      const outputs = new Outputs(dump);
      await inStep(context.gpu, dump, (step) => record(step, dump, outputs, context));
      await outputs.settle();
      return outputs;
    },
  };
}

/** A kind that runs a whole model; `frozen` when it has a backbone, whose weights may be stored otherwise than in f32. */
export function modelKind(run: Kind["run"], options: { readonly frozen: boolean }): Kind {
  return {
    tolerance: (weights) => (options.frozen ? STORAGE[weights].model : MODEL_F32),
    run,
  };
}

/** Records and submits one step. It is submitted even when the recording throws: the next case needs the GPU. */
export async function inStep<T>(gpu: Gpu, dump: Dump, record: (step: Step) => T): Promise<T> {
  const step = gpu.step(`compare ${dump.kind}`);
  let result: T;
  try {
    result = record(step);
  } catch (error) {
    await step.submit().catch(() => {});
    throw error;
  }
  await step.submit();
  return result;
}
