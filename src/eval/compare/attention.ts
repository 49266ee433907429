import type { Tensor } from "../../gpu/tensor.ts";
import { selfAttention, selfAttentionGradient } from "../../ops/attention.ts";
import { crossAttention, crossAttentionGradient } from "../../ops/cross-attention.ts";
import { packed } from "../../ops/packed.ts";
import { rope, rotaryFrequencies } from "../../ops/rope.ts";
import { kernelKind } from "./kind.ts";

/** A tensor that holds nothing but the heads of one of query, key and value. */
function alone(tensor: Tensor) {
  return { tensor, offset: 0, stride: tensor.shape[1] };
}

/** rope: in place over an uploaded copy; the gradient is the inverse rotation. */
export const ropeCase = kernelKind((step, dump, outputs) => {
  const x = dump.floats("x", ["T", "H", "h"]);
  const [total, heads, headSize] = ["T", "H", "h"].map((dimension) => dump.size(dimension));
  const options = {
    heads,
    headSize,
    stride: heads * headSize,
    offset: 0,
    layout: dump.choice("layout", ["half", "interleaved"]),
  };
  const rotaryDim = dump.count("rotary_dim", 2);
  if (rotaryDim > headSize || rotaryDim % 2) {
    throw dump.badParam("rotary_dim", `an even number of at most ${headSize}`);
  }
  const frequencies = rotaryFrequencies(rotaryDim, dump.number("theta"));
  const lengths = dump.lengths("lengths", ["S"], total);
  const { positions } = packed(step, lengths, dump.count("start", 0));
  const rotated = (values: Float32Array<ArrayBuffer>, inverse: boolean) => {
    const tensor = step.upload(values, [total, heads * headSize]);
    rope(step, tensor, positions, { ...options, frequencies, inverse });
    return tensor;
  };
  outputs.read(step, "y", rotated(x, false), ["T", "H", "h"]);
  const dy = dump.floatsFor(["dx"], "dy", ["T", "H", "h"]);
  if (dy) outputs.read(step, "dx", rotated(dy, true), ["T", "H", "h"]);
});

/** attention: packed self-attention, forward and gradients of q, k and v. */
export const attentionCase = kernelKind((step, dump, outputs) => {
  const q = dump.floats("q", ["T", "H", "h"]);
  const k = dump.floats("k", ["T", "G", "h"]);
  const v = dump.floats("v", ["T", "G", "h"]);
  const [total, heads, groups, headSize] = ["T", "H", "G", "h"].map((dimension) => dump.size(dimension));
  if (heads % groups)
    throw dump.error(`${heads} query heads are not a multiple of ${groups} key/value heads`);
  const sequences = packed(step, dump.lengths("lengths", ["S"], total));
  const shape = { heads, keyValueHeads: groups, headSize, causal: dump.flag("causal") };
  const queryShape = [total, heads * headSize];
  const keyShape = [total, groups * headSize];
  const inputs = {
    q: alone(step.upload(q, queryShape)),
    k: alone(step.upload(k, keyShape)),
    v: alone(step.upload(v, keyShape)),
  };
  const saved = selfAttention(step, inputs, sequences, shape);
  outputs.read(step, "o", saved.o, ["T", "H", "h"]);
  outputs.read(step, "lse", saved.lse, ["T", "H"]);
  const dO = dump.floatsFor(["dq", "dk", "dv"], "do", ["T", "H", "h"]);
  if (!dO) return;
  const into = {
    dq: alone(step.tensor(queryShape)),
    dk: alone(step.tensor(keyShape)),
    dv: alone(step.tensor(keyShape)),
  };
  selfAttentionGradient(
    step,
    step.upload(dO, queryShape),
    saved.o,
    saved.lse,
    inputs,
    sequences,
    shape,
    into,
  );
  outputs.read(step, "dq", into.dq.tensor, ["T", "H", "h"]);
  outputs.read(step, "dk", into.dk.tensor, ["T", "G", "h"]);
  outputs.read(step, "dv", into.dv.tensor, ["T", "G", "h"]);
});

/** cross_attention: query sequences against the ragged keys of their owners. */
export const crossAttentionCase = kernelKind((step, dump, outputs) => {
  const queryLength = dump.count("query_length");
  const q = dump.floats("q", ["rows of q", "H", "h"]);
  const k = dump.floats("k", ["sum N", "H", "h"]);
  const v = dump.floats("v", ["sum N", "H", "h"]);
  const [rows, keys, heads, headSize] = ["rows of q", "sum N", "H", "h"].map((name) => dump.size(name));
  if (rows % queryLength)
    throw dump.error(`${rows} rows of q are not a multiple of query_length ${queryLength}`);
  const keyLengths = dump.lengths("key_lengths", ["B"], keys);
  const owner = dump.ids("owner", [rows / queryLength], dump.size("B"));
  const ragged = { keyLengths, owner: [...owner] };
  const shape = { heads, headSize, queryLength };
  const width = heads * headSize;
  const inputs = {
    q: alone(step.upload(q, [rows, width])),
    k: alone(step.upload(k, [keys, width])),
    v: alone(step.upload(v, [keys, width])),
  };
  const { o, lse } = crossAttention(step, inputs, ragged, shape);
  outputs.read(step, "o", o, ["rows of q", "H", "h"]);
  const dO = dump.floatsFor(["dq", "dk", "dv"], "do", ["rows of q", "H", "h"]);
  if (!dO) return;
  const into = {
    dq: alone(step.tensor([rows, width])),
    dk: alone(step.tensor([keys, width])),
    dv: alone(step.tensor([keys, width])),
  };
  crossAttentionGradient(step, step.upload(dO, [rows, width]), o, lse, inputs, ragged, shape, into);
  outputs.read(step, "dq", into.dq.tensor, ["rows of q", "H", "h"]);
  outputs.read(step, "dk", into.dk.tensor, ["sum N", "H", "h"]);
  outputs.read(step, "dv", into.dv.tensor, ["sum N", "H", "h"]);
});
