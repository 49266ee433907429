import { Adam } from "../../autograd/adam.ts";
import { Parameters } from "../../autograd/parameters.ts";
import { sizeOf } from "../../gpu/tensor.ts";
import { KERNEL_F32 } from "../tolerances.ts";
import type { Dump } from "./dump.ts";
import { inStep, type Kind } from "./kind.ts";
import { Outputs } from "./outputs.ts";

/** adam: the optimiser itself over a store of two parameters, step after step. */
export const adamCase: Kind = {
  tolerance: () => KERNEL_F32,
  run: async ({ gpu }, dump) => {
    const [beta1, beta2] = betas(dump);
    const clip = dump.param("clip") === null ? null : dump.number("clip");
    const options = { beta1, beta2, eps: dump.number("eps"), weightDecay: dump.number("weight_decay"), clip };
    const rates = dump.floats("lrs", ["n"]);
    const outputs = new Outputs(dump);
    const parameters = new Parameters();
    const state = ["a", "b"].map((name) => {
      const shape = dump.shapeOf(`${name}0`);
      const values = dump.floats(`${name}0`, shape);
      return { name, shape, values, parameter: parameters.declare(name, shape, { constant: 0 }) };
    });
    // Read every gradient before anything is allocated: a missing one throws.
    const gradients = Array.from(rates, (_, n) =>
      state.map(({ name, shape }) => dump.floats(`g${name}${n}`, shape)),
    );
    parameters.build(gpu, 0);
    const optimiser = new Adam(gpu, parameters, options);
    try {
      for (const { parameter, values } of state) gpu.write(parameter.value, values);
      for (const [n, rate] of rates.entries()) {
        state.forEach(({ parameter }, i) => {
          if (sizeOf(parameter.shape) > 0) gpu.write(parameter.grad, gradients[n][i]);
          parameter.fresh = false;
        });
        await inStep(gpu, dump, (step) => {
          const squared = optimiser.update(step, rate);
          outputs.readAs(step, `norm${n}`, squared, [], (values) => [Math.sqrt(values[0])]);
          for (const { name, shape, parameter } of state) {
            outputs.read(step, `${name}${n + 1}`, parameter.value, shape);
          }
        });
      }
      await outputs.settle();
    } finally {
      optimiser.release();
      parameters.release(gpu);
    }
    return outputs;
  },
};

function betas(dump: Dump): [number, number] {
  const value = dump.param("betas");
  if (Array.isArray(value) && value.length === 2 && value.every((beta) => typeof beta === "number")) {
    return value as [number, number];
  }
  throw dump.badParam("betas", "two numbers");
}
