import type { Architecture } from "./architecture.ts";
import { LLAMA_TENSORS, llamaFigure, withinWindow } from "./llama-family.ts";

/** Mistral 7B (Jiang et al. 2023): Llama's figure, attending within a sliding window; longer sequences are refused. */
export const mistral: Architecture = {
  classes: ["MistralForCausalLM"],
  modelType: "mistral",
  decoder(fields) {
    const figure = llamaFigure(fields, { vocabularySize: 32000, maxPositions: 131072, keyValueHeads: 8 });
    return withinWindow(figure, fields.countOrNull("sliding_window", 4096));
  },
  tensors: LLAMA_TENSORS,
};
