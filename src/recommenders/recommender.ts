import type { Parameters } from "../autograd/parameters.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** A frozen ID recommender, as Laser reads it (section 4.2). */
export interface Recommender {
  /** As reports name it. */
  readonly label: string;
  /** d_c. */
  readonly width: number;
  /** Items it was trained on; ids from there on are unknown to it. */
  readonly itemCount: number;
  /** The longest history that it reads. */
  readonly maxLength: number;
  /**
   * C, the last hidden states of every item of every history, packed [sum N, d_c]. An unknown item is read as the
   * recommender's mask (BERT4Rec) or padding (SASRec) id. Histories must not be empty, nor longer than maxLength.
   */
  hiddenStates(step: Step, histories: readonly ArrayLike<number>[]): Tensor;
  /** Ends its GPU memory. */
  release(gpu: Gpu): void;
}

/** What ranks the item set for a batch of histories: score(b, i) = h_b . item_i (+ bias_i). */
export interface RankingSide {
  /** [B, d]. */
  readonly h: Tensor;
  /** [I, d]. */
  readonly items: Tensor;
  readonly bias: Tensor | null;
}

/** A recommender that ranks with scores of its own, for the report and for validation in its training. */
export interface RankingRecommender extends Recommender {
  /**
   * The representation that predicts the next item of every history, and the items it is compared with. Histories may
   * be of any length: the newest items that fit are read.
   */
  ranking(step: Step, histories: readonly ArrayLike<number>[]): RankingSide;
}

/** Whether a recommender has scores of its own. */
export function canRank(recommender: Recommender): recommender is RankingRecommender {
  return "ranking" in recommender;
}

/** What one training step learns from; what else it holds is the model's own. */
export interface TrainingBatch {
  readonly sequences: readonly ArrayLike<number>[];
  /** Items to predict: the terms of the loss. */
  readonly targets: Uint32Array<ArrayBuffer>;
}

/** A recommender that this project trains. `Batch` is what its training task makes of the sequences. */
export interface TrainableRecommender<Batch extends TrainingBatch = TrainingBatch>
  extends RankingRecommender {
  readonly parameters: Parameters;
  /** Declares how often training shows each item: the others are read as unknown. */
  setKnown(counts: ArrayLike<number>): void;
  /**
   * Records loss (the mean over the targets) and gradients of a batch; returns the sum of the targets' losses [1].
   * `key` is that of the dropout, null for none.
   */
  trainStep(step: Step, batch: Batch, key: { readonly seed: number; readonly step: number } | null): Tensor;
}
