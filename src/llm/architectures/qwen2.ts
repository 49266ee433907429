import type { Architecture } from "./architecture.ts";
import { LLAMA_TENSORS, llamaFigure, withinWindow } from "./llama-family.ts";

/** Qwen2, Qwen2.5 (Yang et al. 2024): Llama's figure with biases on query, key and value. */
export const qwen2: Architecture = {
  classes: ["Qwen2ForCausalLM"],
  modelType: "qwen2",
  decoder(fields) {
    fields.only("use_mrope", false, "positions of several dimensions are not supported");
    const figure = llamaFigure(fields, { vocabularySize: 151936, maxPositions: 32768, keyValueHeads: 32 });
    const windowed = fields.flag("use_sliding_window", false);
    return {
      ...withinWindow(figure, windowed ? fields.countOrNull("sliding_window", 4096) : null),
      biases: "qkv",
    };
  },
  tensors: LLAMA_TENSORS,
};
