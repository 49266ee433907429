import type { Decoder } from "../../llm/decoder.ts";
import { promptBatch } from "../../llm/prompt.ts";
import { gatherRows } from "../../ops/embedding.ts";
import { columnSum } from "../../ops/reduce.ts";
import type { Dump } from "./dump.ts";
import { inStep, modelKind } from "./kind.ts";
import { Outputs } from "./outputs.ts";

/** The texts of a dump: `ids` cut by `lengths`, checked against the model's vocabulary and positions. */
export function readTexts(
  dump: Dump,
  model: Decoder,
  lengthsName: string,
  virtualTokens: number,
): Uint32Array[] {
  const { vocabularySize } = model.config;
  const ids = Uint32Array.from(dump.ids("ids", ["sum W"], vocabularySize));
  const lengths = dump.lengths(lengthsName, ["B"], ids.length);
  const longest = Math.max(...lengths) + virtualTokens;
  if (longest > model.maxPositions) {
    throw dump.error(`a sequence has ${longest} tokens, its checkpoint has ${model.maxPositions} positions`);
  }
  let start = 0;
  return lengths.map((length) => {
    start += length;
    return ids.subarray(start - length, start);
  });
}

/** backbone: hidden states at the suffix and their gradients at prefix and suffix; all hidden states of one text. */
export const backboneCase = modelKind(
  async (context, dump) => {
    const model = await context.backbone(dump);
    const { gpu } = context;
    const d = model.hiddenSize;
    const outputs = new Outputs(dump);
    const suffixTokens = dump.count("suffix", 0);
    const inputs = dump.has("suffix")
      ? {
          prefix: dump.has("prefix") ? dump.floats("prefix", ["B", "L", d]) : null,
          suffix: dump.floats("suffix", [suffixTokens, d]),
        }
      : null;
    const prefixTokens = inputs?.prefix ? dump.size("L") : 0;
    const texts = readTexts(dump, model, "lengths", prefixTokens + (inputs ? suffixTokens : 0));
    const dh = dump.floatsFor(["dprefix", "dsuffix"], "dh", ["B", suffixTokens, d]);

    await inStep(gpu, dump, (step) => {
      if (!inputs) return;
      const batch = promptBatch(step, texts, {
        prefix: prefixTokens,
        sharedPrefix: false,
        suffix: suffixTokens,
      });
      const prefix = inputs.prefix && step.upload(inputs.prefix, [texts.length * prefixTokens, d]);
      const suffix = step.upload(inputs.suffix, [suffixTokens, d]);
      const { hidden, saved } = model.forward(step, batch, prefix, suffix, dh !== null);
      outputs.read(step, "h", hidden, ["B", suffixTokens, d]);
      if (!dh || !saved) return;
      const dx = model.backward(step, saved, step.upload(dh, hidden.shape));
      if (batch.prefixRows) {
        outputs.read(step, "dprefix", gatherRows(step, dx, batch.prefixRows), ["B", "L", d]);
      }
      const dSuffix = step.tensor([suffixTokens * d]);
      const each = gatherRows(step, dx, batch.suffixRows!).reshape([texts.length, suffixTokens * d]);
      columnSum(step, each, dSuffix, false);
      outputs.read(step, "dsuffix", dSuffix, [suffixTokens, d]);
    });

    if (dump.wants("text_hidden")) {
      const index = dump.count("text_sequence", 0);
      if (index >= texts.length) throw dump.badParam("text_sequence", `below ${texts.length}`);
      const text = texts[index];
      await inStep(gpu, dump, (step) => {
        const batch = promptBatch(step, [text], { prefix: 0, sharedPrefix: false, suffix: 0 });
        const hidden = model.hiddenStates(step, batch, null, null);
        outputs.read(step, "text_hidden", hidden, [text.length, d]);
      });
    }
    await outputs.settle();
    return outputs;
  },
  { frozen: true },
);
