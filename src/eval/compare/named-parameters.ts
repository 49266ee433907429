import type { Parameters } from "../../autograd/parameters.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Step } from "../../gpu/step.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Dump } from "./dump.ts";
import type { Outputs } from "./outputs.ts";

/**
 * Builds a model's parameters with the values of the dump's `p.<name>` tensors. `strip` is the start of the model's
 * own names that the dump leaves out.
 */
export function loadParameters(gpu: Gpu, parameters: Parameters, dump: Dump, strip = ""): void {
  const shapes = new Map(
    parameters.list.flatMap(({ components }) => components.map(({ name, shape }) => [name, shape] as const)),
  );
  const flat = parameters.join((name) => {
    const shape = shapes.get(name)!;
    return { shape, data: dump.floats(`p.${name.slice(strip.length)}`, shape) };
  }, dump.path);
  parameters.build(gpu, 0);
  gpu.write(parameters.values, flat);
}

/**
 * Reads a flat buffer of the store (values or gradients, as they are at this point of the step) and hands its
 * components to the outputs as `<prefix><name>`.
 */
export function readParameters(
  step: Step,
  parameters: Parameters,
  flat: Tensor,
  outputs: Outputs,
  prefix: string,
  strip = "",
): Promise<void> {
  const done = step.readFloats(flat).then((values) => {
    for (const [name, { shape, data }] of parameters.split(values)) {
      outputs.set(`${prefix}${name.slice(strip.length)}`, data, shape);
    }
  });
  done.catch(() => {});
  return done;
}
