/**
 * Bi-Tuning (paper, section 4.1): learnable virtual tokens before (prefix) and after (suffix) the text of a frozen
 * language model; the hidden state at the suffix is the user or item embedding h.
 */
import type { Parameter } from "../autograd/parameters.ts";
import { Tape, type Variable } from "../autograd/tape.ts";
import type { Decoder } from "../llm/decoder.ts";
import { promptBatch } from "../llm/prompt.ts";
import { aggregate, aggregateGradient } from "../ops/aggregate.ts";
import { gatherRows } from "../ops/embedding.ts";
import { columnSum } from "../ops/reduce.ts";

/** The virtual tokens before the text: every user's own (M-Former), one set for all (free vectors), or none. */
export type Prefix =
  | { readonly kind: "own"; readonly rows: Variable; readonly length: number }
  | { readonly kind: "shared"; readonly parameter: Parameter }
  | { readonly kind: "none" };

/**
 * h [B, d]: the language model's last hidden state at the suffix (Eq. 1), the mean over the suffix tokens when there
 * are several. texts: token ids of every sequence. suffix [s, d].
 */
export function encodeTexts(
  tape: Tape,
  backbone: Decoder,
  texts: readonly ArrayLike<number>[],
  prefix: Prefix,
  suffix: Parameter,
): Variable {
  const { step } = tape;
  const prefixLength =
    prefix.kind === "own" ? prefix.length : prefix.kind === "shared" ? prefix.parameter.shape[0] : 0;
  const [outputs, width] = suffix.shape;
  const batch = promptBatch(step, texts, {
    prefix: prefixLength,
    sharedPrefix: prefix.kind === "shared",
    suffix: outputs,
  });
  const prefixValue =
    prefix.kind === "own" ? prefix.rows.value : prefix.kind === "shared" ? prefix.parameter.value : null;
  const { gradients } = tape.options;
  const { hidden, saved } = backbone.forward(step, batch, prefixValue, suffix.value, gradients);
  const inputs = prefix.kind === "own" ? [prefix.rows, Tape.TRAINABLE] : [Tape.TRAINABLE];
  const states = tape.result(hidden, inputs, [], (dHidden) => {
    if (!saved) throw new Error("the backbone kept nothing for its backward pass");
    const dx = backbone.backward(step, saved, dHidden);
    const sumInto = (rows: typeof batch.outputRows, parameter: Parameter) => {
      const picked = gatherRows(step, dx, rows);
      const each = parameter.size;
      columnSum(
        step,
        picked.reshape([picked.size / each, each]),
        parameter.grad.reshape([each]),
        !parameter.fresh,
      );
      parameter.fresh = false;
      step.free(picked);
    };
    sumInto(batch.outputRows, suffix);
    if (prefix.kind === "own") tape.give(prefix.rows, gatherRows(step, dx, batch.prefixRows!));
    if (prefix.kind === "shared") sumInto(batch.prefixRows!, prefix.parameter);
    step.free(dx);
  });
  if (outputs === 1) return states;
  // The mean over the suffix tokens: an aggregation with equal gates.
  const shape = { batch: texts.length, active: outputs, rows: 1, width };
  const gate = step.upload(new Float32Array(texts.length * outputs).fill(1 / outputs), [
    texts.length,
    outputs,
  ]);
  return tape.result(aggregate(step, states.value, gate, shape), [states], [], (dh) => {
    const { dq, dGates } = aggregateGradient(step, dh, states.value, gate, shape);
    step.free(dGates);
    tape.give(states, dq);
  });
}
