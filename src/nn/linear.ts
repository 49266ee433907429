import { linear } from "../autograd/functions.ts";
import type { Initial, Parameter, Parameters } from "../autograd/parameters.ts";
import type { Tape, Variable } from "../autograd/tape.ts";

/** BERT's initialisation: weights from N(0, 0.02), biases zero. */
export const WEIGHT_INITIAL: Initial = { normal: 0.02 };
export const ZERO: Initial = { constant: 0 };
export const ONE: Initial = { constant: 1 };

/** y = x W^T + b, named `<name>.weight` [out, in] and `<name>.bias` [out]. */
export class Linear {
  readonly weight: Parameter;
  readonly bias: Parameter | null;

  constructor(parameters: Parameters, name: string, inputs: number, outputs: number, bias = true) {
    this.weight = parameters.declare(`${name}.weight`, [outputs, inputs], WEIGHT_INITIAL);
    this.bias = bias ? parameters.declare(`${name}.bias`, [outputs], ZERO) : null;
  }

  forward(tape: Tape, x: Variable): Variable {
    return linear(tape, x, this.weight, this.bias);
  }
}

/**
 * Several linear layers of the same input, done as one product: y = x [W_1; W_2; ...]^T + [b_1; b_2; ...]. Each keeps
 * its own name (`<prefix>.<part>.weight`, `.bias`) in checkpoints.
 */
export class StackedLinear {
  readonly weight: Parameter;
  readonly bias: Parameter;

  constructor(parameters: Parameters, names: readonly string[], inputs: number, outputs: number) {
    const components = (suffix: string, shape: readonly number[], initial: Initial) =>
      names.map((name) => ({ name: `${name}.${suffix}`, shape, initial }));
    this.weight = parameters.declareStacked(components("weight", [outputs, inputs], WEIGHT_INITIAL));
    this.bias = parameters.declareStacked(components("bias", [outputs], ZERO));
  }

  forward(tape: Tape, x: Variable): Variable {
    return linear(tape, x, this.weight, this.bias);
  }
}
