/**
 * Bi-Tuning (paper, section 4.1): learnable virtual tokens before (prefix) and after (suffix) the text of a frozen
 * language model; the hidden state at the suffix is the user or item embedding h.
 */
import { meanRows } from "../autograd/functions.ts";
import type { Parameter } from "../autograd/parameters.ts";
import { Tape, type Variable } from "../autograd/tape.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Decoder } from "../llm/decoder.ts";
import { promptBatch } from "../llm/prompt.ts";
import { gatherRows } from "../ops/embedding.ts";
import { packed } from "../ops/packed.ts";
import { columnSum } from "../ops/reduce.ts";

/** The virtual tokens before the text: every user's own (M-Former), one set for all (free vectors), or none. */
export type Prefix =
  | { readonly kind: "own"; readonly rows: Variable; readonly length: number }
  | { readonly kind: "shared"; readonly parameter: Parameter }
  | { readonly kind: "none" };

/**
 * What follows the text, and with it where h is read: virtual tokens [s, d], of whose hidden states h is the mean; a
 * hard token (EOS), whose hidden state it is; or nothing, when h is the mean of all hidden states, prefix and text.
 */
export type Suffix =
  | { readonly kind: "virtual"; readonly parameter: Parameter }
  | { readonly kind: "token"; readonly id: number }
  | { readonly kind: "none" };

/** h [B, d]: the language model's output at the suffix (Eq. 1). texts: token ids of every sequence. */
export function encodeTexts(
  tape: Tape,
  backbone: Decoder,
  texts: readonly ArrayLike<number>[],
  prefix: Prefix,
  suffix: Suffix,
): Variable {
  const { step } = tape;
  const prefixLength =
    prefix.kind === "own" ? prefix.length : prefix.kind === "shared" ? prefix.parameter.shape[0] : 0;
  const suffixTokens = suffix.kind === "virtual" ? suffix.parameter.shape[0] : 0;
  const ended = suffix.kind === "token" ? texts.map((text) => [...Array.from(text), suffix.id]) : texts;
  const batch = promptBatch(step, ended, {
    prefix: prefixLength,
    sharedPrefix: prefix.kind === "shared",
    suffix: suffixTokens,
    outputs: suffix.kind === "none" ? "all" : "last",
  });
  const prefixValue =
    prefix.kind === "own" ? prefix.rows.value : prefix.kind === "shared" ? prefix.parameter.value : null;
  const suffixValue = suffix.kind === "virtual" ? suffix.parameter.value : null;
  // Without virtual tokens nothing of the language model's input is trained, and no gradient flows through it.
  const inputs: Variable[] = prefix.kind === "own" ? [prefix.rows] : [];
  if (prefix.kind === "shared" || suffix.kind === "virtual") inputs.push(Tape.TRAINABLE);
  const keep = tape.options.gradients && inputs.length > 0;
  const { hidden, saved } = backbone.forward(step, batch, prefixValue, suffixValue, keep);
  const states = tape.result(hidden, inputs, [], (dHidden) => {
    if (!saved) throw new Error("the backbone kept nothing for its backward pass");
    const dx = backbone.backward(step, saved, dHidden);
    const sumInto = (rows: Tensor, parameter: Parameter) => {
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
    if (suffix.kind === "virtual") sumInto(batch.suffixRows!, suffix.parameter);
    if (prefix.kind === "own") tape.give(prefix.rows, gatherRows(step, dx, batch.prefixRows!));
    if (prefix.kind === "shared") sumInto(batch.prefixRows!, prefix.parameter);
    step.free(dx);
  });
  if (suffix.kind === "none") return meanRows(tape, states, batch.sequences);
  if (suffixTokens <= 1) return states;
  return meanRows(tape, states, packed(step, new Array<number>(texts.length).fill(suffixTokens)));
}
