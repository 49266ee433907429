import { layerNorm } from "../autograd/functions.ts";
import type { Parameter, Parameters } from "../autograd/parameters.ts";
import type { Tape, Variable } from "../autograd/tape.ts";
import { ONE, ZERO } from "./linear.ts";

/** BERT's LayerNorm epsilon. */
export const BERT_EPS = 1e-12;

/** LayerNorm over the last axis, named `<name>.weight` and `<name>.bias`. */
export class LayerNorm {
  readonly weight: Parameter;
  readonly bias: Parameter;

  constructor(
    parameters: Parameters,
    name: string,
    width: number,
    readonly eps: number = BERT_EPS,
  ) {
    this.weight = parameters.declare(`${name}.weight`, [width], ONE);
    this.bias = parameters.declare(`${name}.bias`, [width], ZERO);
  }

  forward(tape: Tape, x: Variable): Variable {
    return layerNorm(tape, x, this.weight, this.bias, this.eps);
  }
}
