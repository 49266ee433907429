import { add, dropout } from "../autograd/functions.ts";
import type { Parameters } from "../autograd/parameters.ts";
import type { Tape, Variable } from "../autograd/tape.ts";
import { LayerNorm } from "./layer-norm.ts";

/** Where the LayerNorm of a residual connection stands: after the sum (BERT), or before the sublayer (SASRec). */
export type NormPlace = "post" | "pre";

/**
 * The residual connection around a sublayer f, with dropout and a LayerNorm named `<name>`:
 * post: LayerNorm(x + dropout(f(x))); pre: x + dropout(f(LayerNorm(x))).
 */
export class Residual {
  private readonly norm: LayerNorm;

  constructor(
    parameters: Parameters,
    name: string,
    width: number,
    private readonly rate: number,
    private readonly place: NormPlace,
  ) {
    this.norm = new LayerNorm(parameters, name, width);
  }

  /** x [T, width]; f keeps the shape. */
  forward(tape: Tape, x: Variable, f: (x: Variable) => Variable): Variable {
    return tape.scope(() => {
      const before = this.place === "pre" ? this.norm.forward(tape, x) : x;
      const sum = add(tape, dropout(tape, f(before), this.rate), x);
      return this.place === "pre" ? sum : this.norm.forward(tape, sum);
    });
  }
}
