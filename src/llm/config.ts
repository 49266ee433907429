import { join } from "node:path";
import { readJsonObject } from "../files/json.ts";
import { UserError } from "../files/user-error.ts";

/** The shape of a LlamaForCausalLM model, as its Hugging Face config.json says. */
export interface LlamaConfig {
  /** d, the width of the hidden states. */
  readonly hiddenSize: number;
  /** Decoder layers. */
  readonly layers: number;
  /** H, query heads. */
  readonly heads: number;
  /** G, key/value heads; each is read by H / G query heads (grouped-query attention when G < H). */
  readonly keyValueHeads: number;
  /** h, dimensions a head (even: rotary embedding pairs them). */
  readonly headSize: number;
  /** F, the width of the SwiGLU's hidden layer. */
  readonly intermediateSize: number;
  /** V, rows of the token embedding. */
  readonly vocabularySize: number;
  /** Positions the model was trained for; prefix, text and suffix together must fit. */
  readonly maxPositions: number;
  /** Epsilon of every RMS norm. */
  readonly normEpsilon: number;
  /** Base of the rotary frequencies, theta^(-2i/h). */
  readonly ropeTheta: number;
  /** True when the head shares the embedding's weights (the head is never run here). */
  readonly tied: boolean;
  /** Begin-of-sequence token, or null when the config names none. */
  readonly bosId: number | null;
}

/**
 * Reads and checks `config.json` of a Hugging Face model directory. Fields that Hugging Face itself lets a config
 * leave out take Hugging Face's defaults.
 *
 * @throws UserError naming the file and the field: missing, of a wrong type or value, or a variant of the
 * architecture that this program does not run (other architectures, scaled rotary embedding, biases, quantised
 * weights ...): running it anyway would give wrong numbers.
 */
export async function readLlamaConfig(directory: string): Promise<LlamaConfig> {
  const path = join(directory, "config.json");
  return parseLlamaConfig(path, await readJsonObject(path));
}

/** `readLlamaConfig` for JSON that has been read; `path` is for messages. */
export function parseLlamaConfig(path: string, json: Record<string, unknown>): LlamaConfig {
  const fail = (field: string, expected: string): never => {
    const found = json[field] === undefined ? "it is missing" : `found ${JSON.stringify(json[field])}`;
    throw new UserError(`${path}: field ${field}: expected ${expected}, ${found}`);
  };
  const count = (field: string, fallback?: number): number => {
    const value = json[field] ?? fallback;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1) {
      return fail(field, "a whole number of at least 1");
    }
    return value;
  };
  const positive = (field: string, fallback?: number): number => {
    const value = json[field] ?? fallback;
    if (typeof value !== "number" || !Number.isFinite(value) || value <= 0)
      return fail(field, "a positive number");
    return value;
  };
  const flag = (field: string): boolean => {
    const value = json[field] ?? false;
    return typeof value === "boolean" ? value : fail(field, "true or false");
  };

  checkArchitecture(path, json, fail);
  const hiddenSize = count("hidden_size");
  const heads = count("num_attention_heads");
  const keyValueHeads = count("num_key_value_heads", heads);
  if (heads % keyValueHeads !== 0) fail("num_key_value_heads", `a divisor of the ${heads} attention heads`);
  if (json.head_dim == null && hiddenSize % heads !== 0) {
    fail("hidden_size", `a multiple of num_attention_heads (${heads}), or a field head_dim`);
  }
  const headSize = count("head_dim", hiddenSize / heads);
  if (headSize % 2 !== 0) {
    const field = json.head_dim == null ? "hidden_size" : "head_dim";
    fail(field, "an even number of dimensions a head (rotary embedding pairs them)");
  }
  const vocabularySize = count("vocab_size", 32000);
  const bosId = json.bos_token_id === undefined ? 1 : json.bos_token_id;
  if (bosId !== null && !isIdBelow(bosId, vocabularySize)) {
    fail("bos_token_id", `null or an id below vocab_size (${vocabularySize})`);
  }
  return {
    hiddenSize,
    layers: count("num_hidden_layers"),
    heads,
    keyValueHeads,
    headSize,
    intermediateSize: count("intermediate_size"),
    vocabularySize,
    maxPositions: count("max_position_embeddings", 2048),
    normEpsilon: positive("rms_norm_eps", 1e-6),
    ropeTheta: ropeTheta(json, positive, fail),
    tied: flag("tie_word_embeddings"),
    bosId: bosId as number | null,
  };
}

type Fail = (field: string, expected: string) => never;

function checkArchitecture(path: string, json: Record<string, unknown>, fail: Fail): void {
  const { architectures, model_type: modelType } = json;
  if (architectures !== undefined && !Array.isArray(architectures)) fail("architectures", "a list of names");
  const names = (architectures as unknown[] | undefined) ?? [];
  const isLlama = names.length > 0 ? names.includes("LlamaForCausalLM") : modelType === "llama";
  if (!isLlama) {
    const found =
      names.length > 0 ? `architecture ${names.join(", ")}` : `model_type ${JSON.stringify(modelType)}`;
    throw new UserError(`${path}: field architectures: ${found} is not supported, expected LlamaForCausalLM`);
  }
  if ((json.hidden_act ?? "silu") !== "silu") fail("hidden_act", '"silu" (the only activation supported)');
  for (const field of ["attention_bias", "mlp_bias"]) {
    if ((json[field] ?? false) !== false) fail(field, "false (layers with biases are not supported)");
  }
  if (json.quantization_config != null) {
    fail("quantization_config", "none (use a checkpoint of F32, F16 or BF16 weights)");
  }
}

/** The rotary base: `rope_theta`, or since transformers 5 `rope_parameters.rope_theta`. Scaled variants are refused. */
function ropeTheta(
  json: Record<string, unknown>,
  positive: (field: string, fallback?: number) => number,
  fail: Fail,
): number {
  for (const field of ["rope_scaling", "rope_parameters"]) {
    const scaling = json[field];
    if (scaling == null) continue;
    const kind = (scaling as Record<string, unknown>).rope_type ?? (scaling as Record<string, unknown>).type;
    const plain = kind === "default" || (field === "rope_parameters" && kind === undefined);
    if (typeof scaling !== "object" || !plain)
      fail(field, "null (scaled rotary embeddings are not supported)");
  }
  if ((json.partial_rotary_factor ?? 1) !== 1) fail("partial_rotary_factor", "1 (the whole head is rotated)");
  const nested = (json.rope_parameters as { rope_theta?: unknown } | null | undefined)?.rope_theta;
  if (nested === undefined) return positive("rope_theta", 10000);
  if (typeof nested !== "number" || !(nested > 0) || !Number.isFinite(nested)) {
    return fail("rope_parameters", "a positive rope_theta");
  }
  return nested;
}

function isIdBelow(value: unknown, limit: number): boolean {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && value < limit;
}
