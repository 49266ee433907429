import { crossAttention, selfAttention } from "../autograd/functions.ts";
import type { Parameters } from "../autograd/parameters.ts";
import type { Tape, Variable } from "../autograd/tape.ts";
import type { RaggedKeys } from "../ops/cross-attention.ts";
import type { Packed } from "../ops/packed.ts";
import { Linear, StackedLinear } from "./linear.ts";
import { type NormPlace, Residual } from "./residual.ts";

export interface AttentionSizes {
  readonly width: number;
  readonly heads: number;
  readonly dropout: number;
}

export interface SelfAttentionSizes extends AttentionSizes {
  readonly causal: boolean;
  /** Where the LayerNorm stands; BERT's place by default. */
  readonly norm?: NormPlace;
}

/**
 * A self-attention sublayer: f(x) = W_o attention(x), with its residual connection. Every row of a packed sequence
 * attends to every row of the same sequence (or, when causal, to those up to itself).
 */
export class SelfAttention {
  private readonly qkv: StackedLinear;
  private readonly output: Linear;
  private readonly residual: Residual;

  constructor(
    parameters: Parameters,
    name: string,
    private readonly sizes: SelfAttentionSizes,
  ) {
    const { width, dropout, norm = "post" } = sizes;
    this.qkv = new StackedLinear(parameters, [`${name}.q`, `${name}.k`, `${name}.v`], width, width);
    this.output = new Linear(parameters, `${name}.o`, width, width);
    this.residual = new Residual(parameters, `${name}.norm`, width, dropout, norm);
  }

  /** x [T, width] in packed sequences; returns the same shape. */
  forward(tape: Tape, x: Variable, sequences: Packed): Variable {
    const { width, heads, causal } = this.sizes;
    const shape = { heads, keyValueHeads: heads, headSize: width / heads, causal };
    return this.residual.forward(tape, x, (input) => {
      const attended = selfAttention(tape, this.qkv.forward(tape, input), sequences, shape);
      return this.output.forward(tape, attended);
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
  private readonly residual: Residual;

  constructor(
    parameters: Parameters,
    name: string,
    private readonly sizes: AttentionSizes,
  ) {
    const { width, dropout } = sizes;
    this.query = new Linear(parameters, `${name}.q`, width, width);
    this.keyValue = new StackedLinear(parameters, [`${name}.k`, `${name}.v`], width, width);
    this.output = new Linear(parameters, `${name}.o`, width, width);
    this.residual = new Residual(parameters, `${name}.norm`, width, dropout, "post");
  }

  /** x [S * queryLength, width]; memory = C' [sum N, width]; returns x's shape. */
  forward(tape: Tape, x: Variable, memory: Variable, keys: RaggedKeys, queryLength: number): Variable {
    const { width, heads } = this.sizes;
    const shape = { heads, headSize: width / heads, queryLength };
    return this.residual.forward(tape, x, (input) => {
      const q = this.query.forward(tape, input);
      const attended = crossAttention(tape, q, this.keyValue.forward(tape, memory), keys, shape);
      return this.output.forward(tape, attended);
    });
  }
}
