import { conv1d, conv1dInputGradient, conv1dWeightGradient } from "../../ops/conv1d.ts";
import { linear, linearInputGradient, linearWeightGradient } from "../../ops/linear.ts";
import { columnSum } from "../../ops/reduce.ts";
import { uploadWeight } from "./frozen.ts";
import { kernelKind } from "./kind.ts";

/** A linear layer whose weight lies [N, K] (linear) or [K, N] (conv1d): forward, gradients of input, weight, bias. */
function linearKind(
  weightShape: readonly ["N", "K"] | readonly ["K", "N"],
  ops: {
    readonly forward: typeof linear | typeof conv1d;
    readonly inputGradient: typeof linearInputGradient;
    readonly weightGradient: typeof linearWeightGradient;
  },
) {
  return kernelKind(
    (step, dump, outputs, { weights }) => {
      const x = step.upload(dump.floats("x", ["M", "K"]), [dump.size("M"), dump.size("K")]);
      const values = dump.floats("W", weightShape);
      const shape = weightShape.map((dimension) => dump.size(dimension));
      const w = uploadWeight(step, values, shape, weights);
      const b = step.upload(dump.floats("b", ["N"]));
      outputs.read(step, "y", ops.forward(step, x, w, b), ["M", "N"]);
      const gradient = dump.floatsFor(["dx", "dW", "db"], "dy", ["M", "N"]);
      if (!gradient) return;
      const dy = step.upload(gradient, [dump.size("M"), dump.size("N")]);
      outputs.read(step, "dx", ops.inputGradient(step, dy, w), ["M", "K"]);
      const dw = step.tensor(shape);
      ops.weightGradient(step, dy, x, dw, false);
      outputs.read(step, "dW", dw, weightShape);
      const db = step.tensor(b.shape);
      columnSum(step, dy, db, false);
      outputs.read(step, "db", db, ["N"]);
    },
    { hasWeights: true },
  );
}

export const linearCase = linearKind(["N", "K"], {
  forward: linear,
  inputGradient: linearInputGradient,
  weightGradient: linearWeightGradient,
});

export const conv1dCase = linearKind(["K", "N"], {
  forward: conv1d,
  inputGradient: conv1dInputGradient,
  weightGradient: conv1dWeightGradient,
});
