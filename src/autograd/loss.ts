import type { Tensor } from "../gpu/tensor.ts";
import { binaryLoss, binaryLossGradient } from "../ops/binary-loss.ts";
import { crossEntropy, crossEntropyGradient, normalizeRows, normalizeRowsGradient } from "../ops/item-set.ts";
import { sum } from "../ops/reduce.ts";
import type { Parameter } from "./parameters.ts";
import type { Tape, Variable } from "./tape.ts";

/** The item side of a cross-entropy: constant rows, or the trainable rows of a tied embedding. */
export interface ItemSide {
  /** [I, d]. */
  readonly items: Tensor;
  readonly bias: Tensor | null;
  /** Parameters that own `items` (their first I rows) and `bias`, when they train; null for constants. */
  readonly trained: { readonly table: Parameter; readonly bias: Parameter | null } | null;
}

/**
 * Cross-entropy of the true item against the whole item set, streaming: logits scale * h . item (+ bias) are never
 * written. h [B, d], target u32 [B]. The loss is the mean over the rows times `weight`; returns the sum of the
 * rows' losses, a scalar tensor.
 */
export function itemCrossEntropy(
  tape: Tape,
  h: Variable,
  side: ItemSide,
  target: Tensor,
  scale: number,
  weight = 1,
): Tensor {
  const { step } = tape;
  const rows = h.value.shape[0];
  const { losses, lse } = crossEntropy(step, h.value, side.items, target, scale, side.bias);
  const total = sum(step, losses);
  step.free(losses);
  tape.loss([lse], () => {
    const dLosses = step.upload(new Float32Array(rows).fill(weight / rows));
    let into = null;
    if (side.trained) {
      // The mask row of the table lies outside the item rows: start from zero, then add.
      const { table, bias } = side.trained;
      for (const parameter of bias ? [table, bias] : [table]) {
        if (parameter.fresh) step.zero(parameter.grad);
        parameter.fresh = false;
      }
      const dItems = table.grad.rows(0, side.items.shape[0]);
      into = { dItems, dBias: bias?.grad ?? null, accumulate: true };
    }
    tape.give(
      h,
      crossEntropyGradient(step, h.value, side.items, target, lse, dLosses, scale, side.bias, into),
    );
  });
  return total;
}

/**
 * Binary cross-entropy of every row's true item against one false item. h [T, d]; pair [2 T, d] holds the true items'
 * rows, then the false ones'. The loss is the mean over the rows; returns the sum of the rows' losses, a scalar tensor.
 */
export function binaryCrossEntropy(tape: Tape, h: Variable, pair: Variable): Tensor {
  const { step } = tape;
  const { losses, slopes } = binaryLoss(step, h.value, pair.value);
  const total = sum(step, losses);
  step.free(losses);
  tape.loss([slopes], () => {
    const { dh, dPair } = binaryLossGradient(step, h.value, pair.value, slopes, 1 / h.value.shape[0]);
    tape.give(h, dh);
    tape.give(pair, dPair);
  });
  return total;
}

/** Rows of x [R, d] divided by their norms, so that a dot product is the cosine of Eq. 2. */
export function normalize(tape: Tape, x: Variable): Variable {
  const { y, norm } = normalizeRows(tape.step, x.value);
  return tape.result(y, [x], [norm], (dy) => {
    tape.give(x, normalizeRowsGradient(tape.step, dy, y, norm));
  });
}
