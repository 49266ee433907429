/** What the models after Llama's figure share: field names, rotary positions, sliding windows, tensor names. */
import type { ConfigFields } from "../config-fields.ts";
import type { DecoderConfig, Llama3Scaling, Rotary } from "../decoder-config.ts";
import type { TensorNames } from "./architecture.ts";

type Figure = Omit<DecoderConfig, "architecture">;

/** Hugging Face's defaults of fields that a config.json may leave out; they differ from model to model. */
export interface FamilyDefaults {
  readonly vocabularySize: number;
  readonly maxPositions: number;
  /** G; without it H. */
  readonly keyValueHeads?: number;
  /** h; without it d / H. */
  readonly headSize?: number;
}

/**
 * Llama's figure: RMSNorm, rotary positions over the whole head, grouped-query attention, SwiGLU, no biases. The
 * members of the family change single values of it.
 */
export function llamaFigure(fields: ConfigFields, defaults: FamilyDefaults): Figure {
  fields.only("hidden_act", "silu", "the only activation supported");
  fields.only("mlp_bias", false, "MLPs with biases are not supported");
  const hiddenSize = fields.count("hidden_size");
  const heads = fields.count("num_attention_heads");
  const keyValueHeads = fields.count("num_key_value_heads", defaults.keyValueHeads ?? heads);
  if (heads % keyValueHeads !== 0) {
    fields.fail("num_key_value_heads", `a divisor of the ${heads} attention heads`);
  }
  const headGiven = fields.raw("head_dim") != null || defaults.headSize !== undefined;
  if (!headGiven && hiddenSize % heads !== 0) {
    fields.fail("hidden_size", `a multiple of num_attention_heads (${heads}), or a field head_dim`);
  }
  const headSize = fields.count("head_dim", defaults.headSize ?? hiddenSize / heads);
  if (headSize % 2 !== 0) {
    fields.fail(
      headGiven ? "head_dim" : "hidden_size",
      "an even number of dimensions a head (rotary embedding pairs them)",
    );
  }
  return {
    hiddenSize,
    layers: fields.count("num_hidden_layers"),
    heads,
    keyValueHeads,
    headSize,
    intermediateSize: fields.count("intermediate_size"),
    vocabularySize: fields.count("vocab_size", defaults.vocabularySize),
    maxPositions: fields.count("max_position_embeddings", defaults.maxPositions),
    positionLimit: "max_position_embeddings",
    norm: { kind: "rms", epsilon: fields.positive("rms_norm_eps", 1e-6) },
    positions: rotary(fields, headSize),
    queryKeyNorm: false,
    mlp: "swiglu",
    biases: "none",
    linear: "out-in",
  };
}

/** Rotary positions; the base is `rope_theta`, or since transformers 5 `rope_parameters.rope_theta`. */
function rotary(fields: ConfigFields, headSize: number): Rotary {
  fields.only("partial_rotary_factor", 1, "the whole head is rotated");
  const parameters = fields.nested("rope_parameters");
  const theta = parameters?.raw("rope_theta") === undefined ? fields : parameters;
  return {
    kind: "rotary",
    layout: "half",
    dimensions: headSize,
    theta: theta.positive("rope_theta", 10000),
    scaling: scaling(fields, "rope_parameters") ?? scaling(fields, "rope_scaling"),
  };
}

/** The scaling that a field describes: none, or Llama 3's. Others are refused. */
function scaling(fields: ConfigFields, field: string): Llama3Scaling | null {
  const values = fields.nested(field);
  if (values === null) return null;
  // rope_parameters without a type hold the base alone.
  const unnamed = field === "rope_parameters" ? "default" : undefined;
  const kind = values.raw("rope_type") ?? values.raw("type") ?? unnamed;
  if (kind === "default") return null;
  if (kind !== "llama3") {
    fields.fail(field, 'null, or a rope_type of "default" or "llama3" (others are not supported)');
  }
  const lowFrequencyFactor = values.positive("low_freq_factor");
  const highFrequencyFactor = values.positive("high_freq_factor");
  if (highFrequencyFactor <= lowFrequencyFactor) {
    values.fail("high_freq_factor", `more than low_freq_factor (${lowFrequencyFactor})`);
  }
  return {
    factor: values.positive("factor"),
    lowFrequencyFactor,
    highFrequencyFactor,
    originalPositions: values.count("original_max_position_embeddings"),
  };
}

/**
 * A figure whose layers (some or all) attend to the nearest `window` rows only. Up to that many tokens this is what
 * full attention gives; longer sequences are not run.
 */
export function withinWindow(figure: Figure, window: number | null): Figure {
  if (window === null || window >= figure.maxPositions) return figure;
  return { ...figure, maxPositions: window, positionLimit: "sliding_window" };
}

/** The names of Hugging Face's own Llama, which its followers keep. */
export const LLAMA_TENSORS: TensorNames = {
  prefixes: ["model."],
  embedding: "embed_tokens",
  layers: "layers",
  inputNorm: "input_layernorm",
  qkv: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
  output: "self_attn.o_proj",
  mlpNorm: "post_attention_layernorm",
  up: ["mlp.gate_proj", "mlp.up_proj"],
  down: "mlp.down_proj",
  finalNorm: "norm",
  head: "lm_head",
};
