import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** What ranks the item set for a batch of histories: score(b, i) = h_b . item_i (+ bias_i). */
export interface RankingSide {
  /** [B, d]. */
  readonly h: Tensor;
  /** [I, d]. */
  readonly items: Tensor;
  readonly bias: Tensor | null;
}

/** A frozen ID recommender, as Laser reads it (section 4.2) and as the report ranks with it. */
export interface Recommender {
  /** d_c. */
  readonly width: number;
  /** Items it was trained on; ids from there on are unknown to it. */
  readonly itemCount: number;
  /**
   * C, the last hidden states of every item of every history, packed [sum N, d_c]. An unknown item is read as the
   * recommender's mask (BERT4Rec) or padding (SASRec) id. Histories must not be empty.
   */
  hiddenStates(step: Step, histories: readonly ArrayLike<number>[]): Tensor;
  /** The representation that predicts the next item of every history, and the items it is compared with. */
  ranking(step: Step, histories: readonly ArrayLike<number>[]): RankingSide;
}
