/**
 * Backbones that have a name: where they are published and what their config.json says (the fields that this program
 * reads), so that `laser plan` knows them without a download. `--backbone` takes these names and any directory.
 */
export interface Published {
  /** Hugging Face repositories that hold it; the first is the one to download, the others older names of it. */
  readonly repositories: readonly string[];
  /** Whether its licence must be accepted before a download. */
  readonly gated: boolean;
  /** What its weight files are called, for the download command. */
  readonly weights: "*.safetensors" | "pytorch_model*.bin";
  readonly config: Readonly<Record<string, unknown>>;
}

const gpt2 = (name: string, n_embd: number, n_layer: number, n_head: number): Published => ({
  repositories: [`openai-community/${name}`, name],
  gated: false,
  weights: "*.safetensors",
  config: {
    architectures: ["GPT2LMHeadModel"],
    n_embd,
    n_layer,
    n_head,
    n_positions: 1024,
    vocab_size: 50257,
    layer_norm_epsilon: 1e-5,
    torch_dtype: "float32",
  },
});

const chatglm = (...repositories: string[]): Published => ({
  repositories,
  gated: false,
  weights: "pytorch_model*.bin",
  config: {
    architectures: ["ChatGLMModel"],
    hidden_size: 4096,
    ffn_hidden_size: 13696,
    num_layers: 28,
    num_attention_heads: 32,
    kv_channels: 128,
    multi_query_attention: true,
    multi_query_group_num: 2,
    add_qkv_bias: true,
    padded_vocab_size: 65024,
    seq_length: 32768,
    layernorm_epsilon: 1e-5,
    tie_word_embeddings: false,
    torch_dtype: "float16",
  },
});

/** Llama's figure: d, F, layers, H, G, V, positions, and what else config.json says. */
const llamaLike = (
  repository: string,
  architecture: string,
  sizes: readonly [d: number, f: number, layers: number, h: number, g: number, v: number, positions: number],
  more: Readonly<Record<string, unknown>> = {},
  gated = false,
): Published => {
  const [hidden_size, intermediate_size, num_hidden_layers, heads, groups, vocab_size, positions] = sizes;
  return {
    repositories: [repository],
    gated,
    weights: "*.safetensors",
    config: {
      architectures: [architecture],
      hidden_size,
      intermediate_size,
      num_hidden_layers,
      num_attention_heads: heads,
      num_key_value_heads: groups,
      vocab_size,
      max_position_embeddings: positions,
      rms_norm_eps: 1e-5,
      tie_word_embeddings: false,
      torch_dtype: "bfloat16",
      ...more,
    },
  };
};

const llama3 = (factor: number, more: Readonly<Record<string, unknown>> = {}) => ({
  rope_theta: 500000,
  rope_scaling: {
    rope_type: "llama3",
    factor,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  },
  ...more,
});
const LLAMA = "LlamaForCausalLM";
const QWEN2 = "Qwen2ForCausalLM";
const QWEN3 = "Qwen3ForCausalLM";
const qwen = { rms_norm_eps: 1e-6, rope_theta: 1e6 };

export const PUBLISHED: Readonly<Record<string, Published>> = {
  gpt2: gpt2("gpt2", 768, 12, 12),
  "gpt2-medium": gpt2("gpt2-medium", 1024, 24, 16),
  "gpt2-large": gpt2("gpt2-large", 1280, 36, 20),
  "gpt2-xl": gpt2("gpt2-xl", 1600, 48, 25),
  llama2: llamaLike(
    "meta-llama/Llama-2-7b-hf",
    LLAMA,
    [4096, 11008, 32, 32, 32, 32000, 4096],
    { rope_theta: 10000, torch_dtype: "float16" },
    true,
  ),
  chatglm2: chatglm("THUDM/chatglm2-6b", "zai-org/chatglm2-6b"),
  chatglm3: chatglm("THUDM/chatglm3-6b-base", "zai-org/chatglm3-6b-base"),
  llama3: llamaLike(
    "meta-llama/Llama-3.1-8B",
    LLAMA,
    [4096, 14336, 32, 32, 8, 128256, 131072],
    llama3(8),
    true,
  ),
  "llama3.2-1b": llamaLike(
    "meta-llama/Llama-3.2-1B",
    LLAMA,
    [2048, 8192, 16, 32, 8, 128256, 131072],
    llama3(32, { head_dim: 64, tie_word_embeddings: true }),
    true,
  ),
  "llama3.2-3b": llamaLike(
    "meta-llama/Llama-3.2-3B",
    LLAMA,
    [3072, 8192, 28, 24, 8, 128256, 131072],
    llama3(32, { head_dim: 128, tie_word_embeddings: true }),
    true,
  ),
  tinyllama: llamaLike(
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
    LLAMA,
    [2048, 5632, 22, 32, 4, 32000, 2048],
  ),
  mistral: llamaLike(
    "mistralai/Mistral-7B-v0.1",
    "MistralForCausalLM",
    [4096, 14336, 32, 32, 8, 32000, 32768],
    { rope_theta: 10000, sliding_window: 4096 },
    true,
  ),
  qwen2: llamaLike("Qwen/Qwen2-7B", QWEN2, [3584, 18944, 28, 28, 4, 152064, 131072], qwen),
  "qwen2.5-0.5b": llamaLike("Qwen/Qwen2.5-0.5B", QWEN2, [896, 4864, 24, 14, 2, 151936, 32768], {
    ...qwen,
    tie_word_embeddings: true,
  }),
  "qwen2.5-7b": llamaLike("Qwen/Qwen2.5-7B", QWEN2, [3584, 18944, 28, 28, 4, 152064, 131072], qwen),
  qwen3: llamaLike("Qwen/Qwen3-8B-Base", QWEN3, [4096, 12288, 36, 32, 8, 151936, 32768], {
    ...qwen,
    head_dim: 128,
  }),
  "qwen3-0.6b": llamaLike("Qwen/Qwen3-0.6B-Base", QWEN3, [1024, 3072, 28, 16, 8, 151936, 32768], {
    ...qwen,
    head_dim: 128,
    tie_word_embeddings: true,
  }),
};
