/**
 * M-Former (paper, section 4.2): a querying transformer whose query vectors are a mixture of experts. A router reads
 * the collaborative embeddings C of a user's items and picks k of K experts; the experts' L query vectors pass
 * through Z blocks shared by all experts, reading C by cross-attention in every second block; the experts are then
 * summed with their gates and projected to the language model's width: the prefix.
 *
 * In the variant `moe: ffn` there is one set of L query vectors, and the experts are the feed-forward layers of every
 * block: the router's k experts of a user are mixed with its gates in each of them.
 */
import { aggregate, dropout, linear } from "../autograd/functions.ts";
import type { Parameter, Parameters } from "../autograd/parameters.ts";
import { Tape, type Variable } from "../autograd/tape.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { CrossAttention, SelfAttention } from "../nn/attention.ts";
import { type ActiveExperts, ExpertFeedForward, FeedForward } from "../nn/feed-forward.ts";
import { LayerNorm } from "../nn/layer-norm.ts";
import { Linear, WEIGHT_INITIAL } from "../nn/linear.ts";
import type { RaggedKeys } from "../ops/cross-attention.ts";
import { selectExperts, selectExpertsGradient } from "../ops/experts.ts";
import { type Packed, packed } from "../ops/packed.ts";
import {
  type GateMode,
  gates,
  type LoadBalancing,
  loadBalancing,
  type Routing,
  router,
  routerGradient,
} from "../ops/router.ts";

/** What there are K of: sets of query vectors (the paper), or feed-forward layers in every block. */
export type ExpertKind = "query" | "ffn";

export interface MFormerSizes {
  readonly moe: ExpertKind;
  /** Width of the collaborative embeddings. */
  readonly collaborativeWidth: number;
  /** d_m, the M-Former's own width. */
  readonly width: number;
  readonly heads: number;
  /** Z. */
  readonly blocks: number;
  /** K. */
  readonly experts: number;
  /** k. */
  readonly activeExperts: number;
  /** L. */
  readonly queryTokens: number;
  /** d, the language model's hidden size. */
  readonly hiddenSize: number;
  readonly gates: GateMode;
  readonly dropout: number;
}

/** What one call of the M-Former yields. */
export interface MFormerOutput {
  /** [B * L, d]: the prefix of every user. */
  readonly prefix: Variable;
  /** w, top experts and argmax counts of the batch. */
  readonly routing: Routing;
  /** The load-balancing loss, not yet multiplied by lambda: a scalar tensor. */
  readonly balance: Tensor;
}

/** One block: self-attention over the queries, cross-attention in even blocks, feed-forward (one, or K experts). */
class Block {
  private readonly selfAttention: SelfAttention;
  private readonly crossAttention: CrossAttention | null;
  private readonly feedForward: (tape: Tape, x: Variable, active: ActiveExperts, rows: number) => Variable;

  constructor(parameters: Parameters, name: string, sizes: MFormerSizes, crosses: boolean) {
    const { width, heads, experts, dropout: rate } = sizes;
    const attention = { width, heads, dropout: rate };
    this.selfAttention = new SelfAttention(parameters, `${name}.self_attn`, { ...attention, causal: false });
    this.crossAttention = crosses ? new CrossAttention(parameters, `${name}.cross_attn`, attention) : null;
    if (sizes.moe === "ffn") {
      const mixture = new ExpertFeedForward(parameters, name, width, experts, rate);
      this.feedForward = (tape, x, active, rows) => mixture.forward(tape, x, active, rows);
    } else {
      const single = new FeedForward(parameters, name, width, rate);
      this.feedForward = (tape, x) => single.forward(tape, x);
    }
  }

  forward(
    tape: Tape,
    x: Variable,
    memory: Variable,
    sequences: Packed,
    keys: RaggedKeys,
    active: ActiveExperts,
  ): Variable {
    const { selfAttention, crossAttention, feedForward } = this;
    return tape.chain(x, [
      (hidden) => selfAttention.forward(tape, hidden, sequences),
      (hidden) => crossAttention?.forward(tape, hidden, memory, keys, sequences.longest) ?? hidden,
      (hidden) => feedForward(tape, hidden, active, sequences.longest),
    ]);
  }
}

export class MFormer {
  /** The experts' sets of query vectors [K, L, d_m], or one set [L, d_m] where the experts are feed-forward layers. */
  private readonly queries: Parameter;
  private readonly routerWeight: Parameter;
  private readonly projectIn: Linear;
  private readonly projectOut: Linear;
  private readonly norm: LayerNorm;
  private readonly blocks: readonly Block[];

  constructor(
    parameters: Parameters,
    readonly sizes: MFormerSizes,
    name = "mformer",
  ) {
    const { moe, experts, queryTokens, width, collaborativeWidth, hiddenSize } = sizes;
    this.queries =
      moe === "query"
        ? parameters.declare(`${name}.experts`, [experts, queryTokens, width], WEIGHT_INITIAL)
        : parameters.declare(`${name}.queries`, [queryTokens, width], WEIGHT_INITIAL);
    this.routerWeight = parameters.declare(
      `${name}.router.weight`,
      [experts, collaborativeWidth],
      WEIGHT_INITIAL,
    );
    this.projectIn = new Linear(parameters, `${name}.proj_in`, collaborativeWidth, width);
    this.projectOut = new Linear(parameters, `${name}.proj_out`, width, hiddenSize);
    this.norm = new LayerNorm(parameters, `${name}.norm`, width);
    this.blocks = Array.from(
      { length: sizes.blocks },
      (_, z) => new Block(parameters, `${name}.blocks.${z}`, sizes, z % 2 === 0),
    );
  }

  /**
   * The prefixes of a batch. C [sum N, d_c] are the frozen recommender's hidden states of every user's items, packed
   * as `users` says. The load-balancing gradient joins the router's when `balance` is given.
   */
  forward(tape: Tape, collaborative: Tensor, users: Packed, balance: LoadBalancing | null): MFormerOutput {
    const { step } = tape;
    const { moe, activeExperts, queryTokens, width, gates: mode } = this.sizes;
    const batch = users.lengths.length;

    // Eq. 4, 8, 9: routing. The gates' gradient and the load-balancing loss's meet in W_r.
    const routing = router(step, collaborative, users, this.routerWeight.value, activeExperts);
    const gate = tape.result(gates(step, routing, mode), [Tape.TRAINABLE], [], (dGates) => {
      const accumulate = !this.routerWeight.fresh;
      this.routerWeight.fresh = false;
      const into = { dWeight: this.routerWeight.grad, accumulate };
      routerGradient(step, collaborative, users, routing, dGates, mode, balance, into);
    });
    const loss = loadBalancing(step, routing, users, balance?.scope ?? "sequence");

    // The queries of the active experts: B * k sequences of L rows; or B times the one set there is.
    const perUser = moe === "query" ? activeExperts : 1;
    const set = moe === "query" ? routing.top : step.upload(new Uint32Array(batch));
    const sets = [this.queries.size / (queryTokens * width), queryTokens, width];
    const picked = selectExperts(step, this.queries.value.reshape(sets), set);
    const queries = tape.result(picked, [Tape.TRAINABLE], [], (dq) => {
      const accumulate = !this.queries.fresh;
      this.queries.fresh = false;
      selectExpertsGradient(step, dq, set, this.queries.grad.reshape(sets), accumulate);
    });
    const count = batch * perUser;
    const sequences = packed(step, new Array<number>(count).fill(queryTokens));
    const keys = {
      keyLengths: users.lengths,
      owner: Array.from({ length: count }, (_, s) => Math.floor(s / perUser)),
    };
    const active = { top: routing.top, gates: gate };
    const memory = this.projectIn.forward(tape, tape.constant(collaborative));
    const last = tape.chain(queries, [
      (hidden) => dropout(tape, this.norm.forward(tape, hidden), this.sizes.dropout),
      ...this.blocks.map(
        (block) => (hidden: Variable) => block.forward(tape, hidden, memory, sequences, keys, active),
      ),
    ]);

    // prefix = (sum over active j of g_j Q'_j) W_out + b.
    const shape = { batch, active: activeExperts, rows: queryTokens, width };
    const mixed = moe === "query" ? aggregate(tape, last, gate, shape) : last;
    const prefix = linear(tape, mixed, this.projectOut.weight, this.projectOut.bias);
    return { prefix, routing, balance: loss };
  }
}
