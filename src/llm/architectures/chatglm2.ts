import type { Architecture } from "./architecture.ts";

/**
 * ChatGLM2, ChatGLM3 (Zeng et al. 2022; Du et al. 2022): Llama's figure with two key/value heads, a bias on the fused
 * query_key_value alone, and rotary positions on the first half of each head, in interleaved pairs.
 */
export const chatglm2: Architecture = {
  classes: ["ChatGLMModel", "ChatGLMForConditionalGeneration"],
  modelType: "chatglm",
  decoder(fields) {
    fields.only("add_bias_linear", false, "linear layers with biases are not supported");
    fields.only("apply_residual_connection_post_layernorm", false, "residuals bypass the norms");
    fields.only("rmsnorm", true, "the only norm supported");
    fields.only("post_layer_norm", true, "a last norm is expected");
    fields.only("rope_theta", 10000, "the base of its rotary positions");
    fields.only("rope_ratio", 1, "stretched rotary positions are not supported");
    fields.only("quantization_bit", 0, "use a checkpoint of F32, F16 or BF16 weights");
    const hiddenSize = fields.count("hidden_size");
    const heads = fields.count("num_attention_heads");
    const keyValueHeads = fields.flag("multi_query_attention", false)
      ? fields.count("multi_query_group_num", 1)
      : heads;
    if (heads % keyValueHeads !== 0) {
      fields.fail("multi_query_group_num", `a divisor of the ${heads} attention heads`);
    }
    const headSize = fields.count("kv_channels", hiddenSize / heads);
    if (headSize % 4 !== 0) fields.fail("kv_channels", "a multiple of 4 (half of it is rotated, in pairs)");
    return {
      hiddenSize,
      layers: fields.count("num_layers"),
      heads,
      keyValueHeads,
      headSize,
      intermediateSize: fields.count("ffn_hidden_size"),
      vocabularySize: fields.count("padded_vocab_size"),
      maxPositions: fields.count("seq_length"),
      positionLimit: "seq_length",
      norm: { kind: "rms", epsilon: fields.positive("layernorm_epsilon", 1e-5) },
      positions: {
        kind: "rotary",
        layout: "interleaved",
        dimensions: headSize / 2,
        theta: 10000,
        scaling: null,
      },
      queryKeyNorm: false,
      mlp: "swiglu",
      biases: fields.flag("add_qkv_bias", false) ? "qkv" : "none",
      linear: "out-in",
    };
  },
  tensors: {
    prefixes: ["transformer."],
    embedding: "embedding.word_embeddings",
    layers: "encoder.layers",
    inputNorm: "input_layernorm",
    qkv: ["self_attention.query_key_value"],
    output: "self_attention.dense",
    mlpNorm: "post_attention_layernorm",
    up: ["mlp.dense_h_to_4h"],
    down: "mlp.dense_4h_to_h",
    finalNorm: "encoder.final_layernorm",
    head: "transformer.output_layer",
  },
};
