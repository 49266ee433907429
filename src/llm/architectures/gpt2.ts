import type { Architecture } from "./architecture.ts";

/**
 * GPT-2 (Radford et al. 2019): LayerNorm, learned positions, biases everywhere, a plain MLP with GELU. Linear weights
 * are "Conv1D", [in, out], and stay so: the products read either order equally well (ops/conv1d.ts), whereas to transpose
 * them while loading means to hold each whole or to read it several times. (Quantised ones are, load.ts: their groups
 * lie along the inputs.)
 */
export const gpt2: Architecture = {
  classes: ["GPT2LMHeadModel", "GPT2Model"],
  modelType: "gpt2",
  decoder(fields) {
    fields.only("activation_function", "gelu_new", "the tanh approximation, the only activation supported");
    fields.only("scale_attn_weights", true, "scores are divided by the root of the head size");
    fields.only(
      "scale_attn_by_inverse_layer_idx",
      false,
      "scores that depend on the layer are not supported",
    );
    fields.only("add_cross_attention", false, "cross-attention is not supported");
    const hiddenSize = fields.count("n_embd", 768);
    const heads = fields.count("n_head", 12);
    if (hiddenSize % heads !== 0) fields.fail("n_embd", `a multiple of n_head (${heads})`);
    return {
      hiddenSize,
      layers: fields.count("n_layer", 12),
      heads,
      keyValueHeads: heads,
      headSize: hiddenSize / heads,
      intermediateSize: fields.count("n_inner", 4 * hiddenSize),
      vocabularySize: fields.count("vocab_size", 50257),
      maxPositions: fields.count("n_positions", 1024),
      positionLimit: "n_positions",
      norm: { kind: "layer", epsilon: fields.positive("layer_norm_epsilon", 1e-5) },
      positions: { kind: "learned" },
      queryKeyNorm: false,
      mlp: "gelu",
      biases: "all",
      linear: "in-out",
    };
  },
  tensors: {
    prefixes: ["", "transformer."],
    embedding: "wte",
    positions: "wpe",
    layers: "h",
    inputNorm: "ln_1",
    qkv: ["attn.c_attn"],
    output: "attn.c_proj",
    mlpNorm: "ln_2",
    up: ["mlp.c_fc"],
    down: "mlp.c_proj",
    finalNorm: "ln_f",
    ignored: ["attn.bias", "attn.masked_bias"],
    head: "lm_head",
  },
};
