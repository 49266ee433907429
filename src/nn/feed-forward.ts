import { add, aggregate, dropout, expertLinear, gelu } from "../autograd/functions.ts";
import type { Parameters } from "../autograd/parameters.ts";
import type { Tape, Variable } from "../autograd/tape.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { LayerNorm } from "./layer-norm.ts";
import { Linear, StackedLinear } from "./linear.ts";

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
  private readonly norm: LayerNorm;

  constructor(
    parameters: Parameters,
    name: string,
    private readonly width: number,
    experts: number,
    private readonly rate: number,
  ) {
    const names = (part: string) => Array.from({ length: experts }, (_, j) => `${name}.experts.${j}.${part}`);
    this.up = new StackedLinear(parameters, names("up"), width, 4 * width);
    this.down = new StackedLinear(parameters, names("down"), 4 * width, width);
    this.norm = new LayerNorm(parameters, `${name}.norm`, width);
  }

  /** x [B * rows, width]: `rows` rows of every user, whose experts are `active`. Returns the same shape. */
  forward(tape: Tape, x: Variable, { top, gates }: ActiveExperts, rows: number): Variable {
    const { width, up, down } = this;
    const [batch, active] = top.shape;
    return tape.scope(() => {
      const shared = { top, rows, share: active };
      const hidden = gelu(tape, expertLinear(tape, x, up.weight, up.bias, 4 * width, shared), "none");
      const own = { top, rows, share: 1 };
      const outputs = expertLinear(tape, hidden, down.weight, down.bias, width, own);
      const mixed = aggregate(tape, outputs, gates, { batch, active, rows, width });
      return this.norm.forward(tape, add(tape, dropout(tape, mixed, this.rate), x));
    });
  }
}
