import type { Architecture } from "./architecture.ts";
import { LLAMA_TENSORS, llamaFigure, withinWindow } from "./llama-family.ts";

/** Qwen3 (Yang et al. 2025): Llama's figure with an RMS norm of every query and key head; H h differs from d. */
export const qwen3: Architecture = {
  classes: ["Qwen3ForCausalLM"],
  modelType: "qwen3",
  decoder(fields) {
    fields.only("attention_bias", false, "attention with biases is not supported");
    const defaults = { vocabularySize: 151936, maxPositions: 32768, keyValueHeads: 32, headSize: 128 };
    const windowed = fields.flag("use_sliding_window", false);
    return {
      ...withinWindow(
        llamaFigure(fields, defaults),
        windowed ? fields.countOrNull("sliding_window", 4096) : null,
      ),
      queryKeyNorm: true,
    };
  },
  tensors: { ...LLAMA_TENSORS, queryKeyNorm: ["self_attn.q_norm", "self_attn.k_norm"] },
};
