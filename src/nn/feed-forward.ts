import { add, dropout, gelu } from "../autograd/functions.ts";
import type { Parameters } from "../autograd/parameters.ts";
import type { Tape, Variable } from "../autograd/tape.ts";
import { LayerNorm } from "./layer-norm.ts";
import { Linear } from "./linear.ts";

/**
 * BERT's feed-forward sublayer, post-norm: LayerNorm(x + dropout(W_down gelu(W_up x))), with the exact (erf) GELU.
 * Named `<name>.up`, `<name>.down`, `<name>.norm`.
 */
export class FeedForward {
  private readonly up: Linear;
  private readonly down: Linear;
  private readonly norm: LayerNorm;

  constructor(
    parameters: Parameters,
    name: string,
    width: number,
    private readonly rate: number,
  ) {
    this.up = new Linear(parameters, `${name}.up`, width, 4 * width);
    this.down = new Linear(parameters, `${name}.down`, 4 * width, width);
    this.norm = new LayerNorm(parameters, `${name}.norm`, width);
  }

  forward(tape: Tape, x: Variable): Variable {
    return tape.scope(() => {
      const hidden = gelu(tape, this.up.forward(tape, x), "none");
      const dense = dropout(tape, this.down.forward(tape, hidden), this.rate);
      return this.norm.forward(tape, add(tape, dense, x));
    });
  }
}
