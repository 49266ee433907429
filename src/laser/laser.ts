/**
 * Laser: a frozen language model and a frozen ID recommender, joined by the trainable M-Former, prefix and suffix.
 * One encoder serves users and items: an item is a history of one (section 4.1).
 */
import { itemCrossEntropy, normalize } from "../autograd/loss.ts";
import { type Parameter, Parameters } from "../autograd/parameters.ts";
import { Tape, type Variable } from "../autograd/tape.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Decoder } from "../llm/decoder.ts";
import type { DecoderConfig } from "../llm/decoder-config.ts";
import { Linear, WEIGHT_INITIAL } from "../nn/linear.ts";
import { packed } from "../ops/packed.ts";
import type { GateMode, LoadBalancing } from "../ops/router.ts";
import { encodeTexts, type Prefix, type Suffix } from "./bi-tuning.ts";
import { type ExpertKind, MFormer, type MFormerOutput } from "./mformer.ts";
import type { TokenizedText } from "./text.ts";

export interface LaserSizes {
  /** Where the prefix comes from. `free` is the paper's "w/o M-Former", `none` its "w/o prefix". */
  readonly prefix: "mformer" | "free" | "none";
  /** L. */
  readonly queryTokens: number;
  /** What there are K of: sets of query vectors, or feed-forward layers. */
  readonly moe: ExpertKind;
  /** K and k. */
  readonly experts: number;
  readonly activeExperts: number;
  /** d_m, Z and H of the M-Former. */
  readonly mformerWidth: number;
  readonly mformerBlocks: number;
  readonly mformerHeads: number;
  readonly gates: GateMode;
  readonly dropout: number;
  /**
   * What h is: the mean over the learned suffix tokens, over all outputs without a suffix ("w/ average pooling"), or
   * the output at a hard EOS token in the suffix's place ("w/ [EOS]").
   */
  readonly pooling: "suffix" | "mean" | "eos";
  /** s, with pooling `suffix`. */
  readonly suffixTokens: number;
  /** Whether a trainable linear layer, d to d, follows the language model's output. */
  readonly projection: boolean;
  /** How trained layers multiply where there are tensor cores; f32 when missing. */
  readonly products?: "f32" | "f16";
}

/** Temperature, lambda and scope: the numbers of Eq. 6 and Eq. 10. */
export interface LossSettings {
  readonly temperature: number;
  readonly lambda: number;
  readonly loadBalancing: "sequence" | "batch";
}

/** What a training step leaves to read: scalar tensors. */
export interface LaserStep {
  /** Sum over the batch of the IIC losses. */
  readonly iicSum: Tensor;
  /** Load-balancing loss before lambda; null without M-Former. */
  readonly balance: Tensor | null;
  /** u32 [B, K]: positions whose arg-max is each expert; null without M-Former. */
  readonly expertUse: Tensor | null;
}

/** Where C comes from: the frozen recommender's hidden states of the items of every history [sum N, d_c]. */
export type Collaborative = (step: Step, histories: readonly (readonly number[])[]) => Tensor;

/** Tokens that Laser adds to every text: virtual ones, or the hard EOS. */
export function addedTokens({ prefix, queryTokens, pooling, suffixTokens }: LaserSizes): number {
  const after = { suffix: suffixTokens, mean: 0, eos: 1 };
  return (prefix === "none" ? 0 : queryTokens) + after[pooling];
}

/** The hard token that ends a text with pooling `eos`. Throws UserError when the backbone names none. */
export function endToken({ architecture, endId }: Pick<DecoderConfig, "architecture" | "endId">): number {
  if (endId !== undefined) return endId;
  throw new UserError(
    `pooling is eos, but config.json of this ${architecture} names no eos_token_id; add it there, or choose another pooling`,
  );
}

/** Laser's trainable parts; null for those that a variant lacks. */
interface LaserParts {
  readonly suffix: Parameter | null;
  readonly freePrefix: Parameter | null;
  readonly mformer: MFormer | null;
  readonly projection: Linear | null;
}

/** Declares the trainable parameters of a Laser. `hiddenSize` is d, `collaborativeWidth` d_c. */
export function declareLaser(
  p: Parameters,
  sizes: LaserSizes,
  hiddenSize: number,
  collaborativeWidth: number,
): LaserParts {
  const suffix =
    sizes.pooling === "suffix" ? p.declare("suffix", [sizes.suffixTokens, hiddenSize], WEIGHT_INITIAL) : null;
  const freePrefix =
    sizes.prefix === "free" ? p.declare("prefix", [sizes.queryTokens, hiddenSize], WEIGHT_INITIAL) : null;
  const { mformerWidth: width, mformerHeads: heads, mformerBlocks: blocks } = sizes;
  const mformer =
    sizes.prefix === "mformer"
      ? new MFormer(p, { ...sizes, width, heads, blocks, hiddenSize, collaborativeWidth })
      : null;
  const projection = sizes.projection ? new Linear(p, "projection", hiddenSize, hiddenSize) : null;
  return { suffix, freePrefix, mformer, projection };
}

export class Laser {
  readonly parameters: Parameters;
  private readonly parts: LaserParts;
  private readonly suffix: Suffix;

  constructor(
    readonly sizes: LaserSizes,
    readonly backbone: Decoder,
    private readonly collaborative: Collaborative,
    collaborativeWidth: number,
  ) {
    this.parameters = new Parameters(sizes.products === "f16");
    this.parts = declareLaser(this.parameters, sizes, backbone.hiddenSize, collaborativeWidth);
    this.suffix = this.parts.suffix
      ? { kind: "virtual", parameter: this.parts.suffix }
      : sizes.pooling === "eos"
        ? { kind: "token", id: endToken(backbone.config) }
        : { kind: "none" };
  }

  /** Tokens added to every text. */
  get addedTokens(): number {
    return addedTokens(this.sizes);
  }

  private forward(
    tape: Tape,
    texts: readonly TokenizedText[],
    balance: LoadBalancing | null,
  ): { h: Variable; mformer: MFormerOutput | null } {
    const { freePrefix, mformer, projection } = this.parts;
    let prefix: Prefix = { kind: "none" };
    let output: MFormerOutput | null = null;
    if (freePrefix) prefix = { kind: "shared", parameter: freePrefix };
    if (mformer) {
      const histories = texts.map((text) => text.items);
      const c = this.collaborative(tape.step, histories);
      const users = packed(
        tape.step,
        histories.map((history) => history.length),
      );
      output = mformer.forward(tape, c, users, balance);
      prefix = { kind: "own", rows: output.prefix, length: this.sizes.queryTokens };
    }
    const ids = texts.map((text) => text.ids);
    const h = encodeTexts(tape, this.backbone, ids, prefix, this.suffix);
    return { h: projection?.forward(tape, h) ?? h, mformer: output };
  }

  /** h of every text [B, d] (Eq. 1; after the projection, if any), not normalised, without gradients. */
  hidden(step: Step, texts: readonly TokenizedText[]): Tensor {
    const tape = new Tape(step, { gradients: false, dropout: null });
    return this.forward(tape, texts, null).h.value;
  }

  /** h / ||h|| of every text [B, d], without gradients: user embeddings, or rows of E. */
  encode(step: Step, texts: readonly TokenizedText[]): Tensor {
    const tape = new Tape(step, { gradients: false, dropout: null });
    return normalize(tape, this.forward(tape, texts, null).h).value;
  }

  /**
   * Records loss (Eq. 10: IIC + lambda LB) and gradients of a batch. `items` is E [I, d], rows normalised; targets are
   * item indexes. `weight` is the batch's share of the update (1, or less under gradient accumulation).
   */
  trainStep(
    step: Step,
    texts: readonly TokenizedText[],
    targets: Uint32Array<ArrayBuffer>,
    items: Tensor,
    loss: LossSettings,
    key: { readonly seed: number; readonly step: number } | null,
    weight = 1,
  ): LaserStep {
    const tape = new Tape(step, { gradients: true, dropout: key });
    const balance = { scope: loss.loadBalancing, coefficient: loss.lambda * weight };
    const { h, mformer } = this.forward(tape, texts, balance);
    const side = { items, bias: null, trained: null };
    const unit = normalize(tape, h);
    const iicSum = itemCrossEntropy(tape, unit, side, step.upload(targets), 1 / loss.temperature, weight);
    tape.backward();
    return { iicSum, balance: mformer?.balance ?? null, expertUse: mformer?.routing.argmaxCounts ?? null };
  }

  /** Ends the trainable parameters (not the backbone, nor the recommender). */
  release(gpu: Gpu): void {
    this.parameters.release(gpu);
  }
}
