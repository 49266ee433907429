import { add, crossAttention, dropout, selfAttention } from "../autograd/functions.ts";
import type { Parameters } from "../autograd/parameters.ts";
import type { Tape, Variable } from "../autograd/tape.ts";
import type { RaggedKeys } from "../ops/cross-attention.ts";
import type { Packed } from "../ops/packed.ts";
import { LayerNorm } from "./layer-norm.ts";
import { Linear, StackedLinear } from "./linear.ts";

export interface AttentionSizes {
  readonly width: number;
  readonly heads: number;
  readonly dropout: number;
}

/**
 * BERT's self-attention sublayer, post-norm: LayerNorm(x + dropout(W_o attention(x))). Every row of a packed sequence
 * attends to every row of the same sequence (or, when causal, to those up to itself).
 */
export class SelfAttention {
  private readonly qkv: StackedLinear;
  private readonly output: Linear;
  private readonly norm: LayerNorm;

  constructor(
    parameters: Parameters,
    name: string,
    private readonly sizes: AttentionSizes & { readonly causal: boolean },
  ) {
    const { width } = sizes;
    this.qkv = new StackedLinear(parameters, [`${name}.q`, `${name}.k`, `${name}.v`], width, width);
    this.output = new Linear(parameters, `${name}.o`, width, width);
    this.norm = new LayerNorm(parameters, `${name}.norm`, width);
  }

  /** x [T, width] in packed sequences; returns the same shape. */
  forward(tape: Tape, x: Variable, sequences: Packed): Variable {
    const { width, heads, causal } = this.sizes;
    const shape = { heads, keyValueHeads: heads, headSize: width / heads, causal };
    return tape.scope(() => {
      const attended = selfAttention(tape, this.qkv.forward(tape, x), sequences, shape);
      const dense = dropout(tape, this.output.forward(tape, attended), this.sizes.dropout);
      return this.norm.forward(tape, add(tape, dense, x));
    });
  }
}

/**
 * The Q-Former's cross-attention sublayer (Eq. 5): queries read the projected collaborative embeddings C' of their
 * user; LayerNorm(x + dropout(W_o softmax(Q K^T / sqrt(h)) V)).
 */
export class CrossAttention {
  private readonly query: Linear;
  private readonly keyValue: StackedLinear;
  private readonly output: Linear;
  private readonly norm: LayerNorm;

  constructor(
    parameters: Parameters,
    name: string,
    private readonly sizes: AttentionSizes,
  ) {
    const { width } = sizes;
    this.query = new Linear(parameters, `${name}.q`, width, width);
    this.keyValue = new StackedLinear(parameters, [`${name}.k`, `${name}.v`], width, width);
    this.output = new Linear(parameters, `${name}.o`, width, width);
    this.norm = new LayerNorm(parameters, `${name}.norm`, width);
  }

  /** x [S * queryLength, width]; memory = C' [sum N, width]; returns x's shape. */
  forward(tape: Tape, x: Variable, memory: Variable, keys: RaggedKeys, queryLength: number): Variable {
    const { width, heads } = this.sizes;
    const shape = { heads, headSize: width / heads, queryLength };
    return tape.scope(() => {
      const q = this.query.forward(tape, x);
      const attended = crossAttention(tape, q, this.keyValue.forward(tape, memory), keys, shape);
      const dense = dropout(tape, this.output.forward(tape, attended), this.sizes.dropout);
      return this.norm.forward(tape, add(tape, dense, x));
    });
  }
}
