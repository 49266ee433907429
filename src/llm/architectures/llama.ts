import type { Architecture } from "./architecture.ts";
import { LLAMA_TENSORS, llamaFigure } from "./llama-family.ts";

/** Llama 2 (Touvron et al. 2023), Llama 3.x (with its scaled frequencies), TinyLlama. */
export const llama: Architecture = {
  classes: ["LlamaForCausalLM"],
  modelType: "llama",
  decoder(fields) {
    fields.only("attention_bias", false, "attention with biases is not supported");
    return llamaFigure(fields, { vocabularySize: 32000, maxPositions: 2048 });
  },
  tensors: LLAMA_TENSORS,
};
