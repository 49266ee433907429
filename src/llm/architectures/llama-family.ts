/** What the models after Llama's figure share: field names, rotary positions, tensor names. */
import type { ConfigFields } from "../config-fields.ts";
import type { DecoderConfig, Rotary } from "../decoder-config.ts";
import type { TensorNames } from "./architecture.ts";

/** Hugging Face's defaults of fields that a config.json may leave out; they differ from model to model. */
export interface FamilyDefaults {
  readonly vocabularySize: number;
  readonly maxPositions: number;
  /** h; without it d / H. */
  readonly headSize?: number;
}

/**
 * Llama's figure: RMSNorm, rotary positions over the whole head, grouped-query attention, SwiGLU, no biases. The
 * members of the family change single values of it.
 */
export function llamaFigure(
  fields: ConfigFields,
  defaults: FamilyDefaults,
): Omit<DecoderConfig, "architecture"> {
  fields.only("hidden_act", "silu", "the only activation supported");
  fields.only("mlp_bias", false, "MLPs with biases are not supported");
  const hiddenSize = fields.count("hidden_size");
  const heads = fields.count("num_attention_heads");
  const keyValueHeads = fields.count("num_key_value_heads", heads);
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

/** The rotary base: `rope_theta`, or since transformers 5 `rope_parameters.rope_theta`. Scaled variants are refused. */
function rotary(fields: ConfigFields, headSize: number): Rotary {
  for (const field of ["rope_scaling", "rope_parameters"]) {
    const scaling = fields.raw(field);
    if (scaling == null) continue;
    const kind = (scaling as Record<string, unknown>).rope_type ?? (scaling as Record<string, unknown>).type;
    const plain = kind === "default" || (field === "rope_parameters" && kind === undefined);
    if (typeof scaling !== "object" || !plain) {
      fields.fail(field, "null (scaled rotary embeddings are not supported)");
    }
  }
  fields.only("partial_rotary_factor", 1, "the whole head is rotated");
  const nested = (fields.raw("rope_parameters") as { rope_theta?: unknown } | null | undefined)?.rope_theta;
  if (nested !== undefined && !(typeof nested === "number" && nested > 0 && Number.isFinite(nested))) {
    fields.fail("rope_parameters", "a positive rope_theta");
  }
  const theta = (nested as number | undefined) ?? fields.positive("rope_theta", 10000);
  return { kind: "rotary", layout: "half", dimensions: headSize, theta, scaling: null };
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
