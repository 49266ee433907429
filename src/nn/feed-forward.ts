import { aggregate, expertLinear, gelu, relu } from "../autograd/functions.ts";
import type { Parameters } from "../autograd/parameters.ts";
import type { Tape, Variable } from "../autograd/tape.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { Linear, StackedLinear } from "./linear.ts";
import { type NormPlace, Residual } from "./residual.ts";

export interface FeedForwardShape {
  /** Width of the hidden layer, in widths of the model. */
  readonly expansion: number;
  /** GELU is the exact one (erf). */
  readonly activation: "gelu" | "relu";
  readonly norm: NormPlace;
}

/** BERT's: four times the width, GELU, post-norm. */
const BERT: FeedForwardShape = { expansion: 4, activation: "gelu", norm: "post" };

/**
 * A feed-forward sublayer: f(x) = W_down activation(W_up x), with its residual connection. Named `<name>.up`,
 * `<name>.down`, `<name>.norm`.
 */
export class FeedForward {
  private readonly up: Linear;
  private readonly down: Linear;
  private readonly residual: Residual;

  constructor(
    parameters: Parameters,
    name: string,
    width: number,
    rate: number,
    private readonly shape: FeedForwardShape = BERT,
  ) {
    this.up = new Linear(parameters, `${name}.up`, width, shape.expansion * width);
    this.down = new Linear(parameters, `${name}.down`, shape.expansion * width, width);
    this.residual = new Residual(parameters, `${name}.norm`, width, rate, shape.norm);
  }

  forward(tape: Tape, x: Variable): Variable {
    return this.residual.forward(tape, x, (input) => {
      const hidden = this.up.forward(tape, input);
      const active = this.shape.activation === "gelu" ? gelu(tape, hidden, "none") : relu(tape, hidden);
      return this.down.forward(tape, active);
    });
  }
}

/** The experts that a router chose for B users, k each, and their gates. */
export interface ActiveExperts {
  /** u32 [B, k]. */
  readonly top: Tensor;
  /** [B, k]. */
  readonly gates: Variable;
}

/**
 * A mixture of K feed-forward experts in place of one, post-norm: LayerNorm(x + dropout(sum over the user's k active
 * experts j of g_j W_down_j gelu(W_up_j x))). Expert j is named `<name>.experts.j.up` and `.down`; `<name>.norm` is
 * shared. Only active experts are computed.
 */
export class ExpertFeedForward {
  private readonly up: StackedLinear;
  private readonly down: StackedLinear;
  private readonly residual: Residual;

  constructor(
    parameters: Parameters,
    name: string,
    private readonly width: number,
    experts: number,
    rate: number,
  ) {
    const names = (part: string) => Array.from({ length: experts }, (_, j) => `${name}.experts.${j}.${part}`);
    this.up = new StackedLinear(parameters, names("up"), width, 4 * width);
    this.down = new StackedLinear(parameters, names("down"), 4 * width, width);
    this.residual = new Residual(parameters, `${name}.norm`, width, rate, "post");
  }

  /** x [B * rows, width]: `rows` rows of every user, whose experts are `active`. Returns the same shape. */
  forward(tape: Tape, x: Variable, { top, gates }: ActiveExperts, rows: number): Variable {
    const { width, up, down } = this;
    const [batch, active] = top.shape;
    return this.residual.forward(tape, x, (input) => {
      const shared = { top, rows, share: active };
      const hidden = gelu(tape, expertLinear(tape, input, up.weight, up.bias, 4 * width, shared), "none");
      const own = { top, rows, share: 1 };
      const outputs = expertLinear(tape, hidden, down.weight, down.bias, width, own);
      return aggregate(tape, outputs, gates, { batch, active, rows, width });
    });
  }
}
