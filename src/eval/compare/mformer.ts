import { Parameters } from "../../autograd/parameters.ts";
import { Tape } from "../../autograd/tape.ts";
import { MFormer, type MFormerSizes } from "../../laser/mformer.ts";
import { packed } from "../../ops/packed.ts";
import type { Dump } from "./dump.ts";
import { inStep, modelKind } from "./kind.ts";
import { loadParameters, readParameters } from "./named-parameters.ts";
import { Outputs } from "./outputs.ts";

/** The sizes of an M-Former from a dump's params; dropout is off. */
export function mformerSizes(dump: Dump): MFormerSizes {
  const sizes = {
    moe: dump.choice("moe", ["query", "ffn"], "query"),
    collaborativeWidth: dump.count("d_c"),
    width: dump.count("d_m"),
    heads: dump.count("heads"),
    blocks: dump.count("blocks"),
    experts: dump.count("K"),
    activeExperts: dump.count("k"),
    queryTokens: dump.count("L"),
    hiddenSize: dump.count("d"),
    gates: dump.choice("gates", ["weights", "softmax", "normalized"]),
    dropout: 0,
  };
  if (sizes.width % sizes.heads) throw dump.badParam("heads", `a divisor of d_m, ${sizes.width}`);
  if (sizes.activeExperts > sizes.experts) throw dump.badParam("k", `at most K, ${sizes.experts}`);
  return sizes;
}

/** mformer: the prefix of every user and the gradient of sum(prefix * dprefix) at every parameter. */
export const mformerCase = modelKind(
  async ({ gpu }, dump) => {
    const sizes = mformerSizes(dump);
    const { queryTokens, hiddenSize, collaborativeWidth } = sizes;
    const outputs = new Outputs(dump);
    const values = dump.floats("C", ["sum N", collaborativeWidth]);
    const lengths = dump.lengths("lengths", ["B"], dump.size("sum N"));
    const dPrefix = dump.floats("dprefix", ["B", queryTokens, hiddenSize]);
    const parameters = new Parameters();
    const mformer = new MFormer(parameters, sizes);
    loadParameters(gpu, parameters, dump, "mformer.");
    try {
      const gradients = await inStep(gpu, dump, (step) => {
        const tape = new Tape(step, { gradients: true, dropout: null });
        const c = step.upload(values, [dump.size("sum N"), collaborativeWidth]);
        const { prefix } = mformer.forward(tape, c, packed(step, lengths), null);
        outputs.read(step, "prefix", prefix.value, ["B", queryTokens, hiddenSize]);
        tape.loss([], () => tape.give(prefix, step.upload(dPrefix, prefix.value.shape)));
        tape.backward();
        parameters.settleGradients(step);
        return { done: readParameters(step, parameters, parameters.gradients, outputs, "g.", "mformer.") };
      });
      await Promise.all([gradients.done, outputs.settle()]);
    } finally {
      parameters.release(gpu);
    }
    return outputs;
  },
  { frozen: false },
);
