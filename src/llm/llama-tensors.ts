import type { StoredType } from "../files/safetensors.ts";
import { UserError } from "../files/user-error.ts";
import { type Checkpoint, openCheckpoint } from "./checkpoint-index.ts";
import type { LlamaConfig } from "./config.ts";

/** The dtypes that weights may be stored in. */
export const WEIGHT_TYPES: readonly StoredType[] = ["F32", "F16", "BF16"];

/**
 * Opens a checkpoint and checks that it holds every tensor a Llama of this config needs, with the right shape and a
 * dtype of F32, F16 or BF16. Tensors that are not needed (the head, rotary buffers) may be present.
 *
 * @throws UserError naming the file and the tensor, what was expected and what was found.
 */
export async function openLlamaCheckpoint(directory: string, config: LlamaConfig): Promise<Checkpoint> {
  const checkpoint = await openCheckpoint(directory);
  try {
    const expected = [...llamaTensors(config)];
    const missing = expected.filter(([name]) => !checkpoint.has(name)).map(([name]) => name);
    if (missing.length > 0) {
      const more = missing.length > 1 ? ` and ${missing.length - 1} more` : "";
      throw new UserError(
        `${directory}: tensor ${missing[0]}${more} that config.json asks for is not in the checkpoint; are config and weights of one model?`,
      );
    }
    for (const [name, shape] of expected) checkTensor(checkpoint, name, shape);
    // Never run, but a head of another shape means that config and weights are not of one model.
    if (checkpoint.has("lm_head.weight")) {
      checkTensor(checkpoint, "lm_head.weight", [config.vocabularySize, config.hiddenSize]);
    }
    checkLayers(checkpoint, config);
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
  return checkpoint;
}

/** Name and shape of every tensor of the frozen model, in the order of the forward pass. Linear weights are [out, in]. */
export function* llamaTensors(config: LlamaConfig): Generator<[name: string, shape: readonly number[]]> {
  const { hiddenSize: d, heads, keyValueHeads, headSize, intermediateSize } = config;
  yield ["model.embed_tokens.weight", [config.vocabularySize, d]];
  for (let n = 0; n < config.layers; n++) {
    const layer = `model.layers.${n}`;
    yield [`${layer}.input_layernorm.weight`, [d]];
    yield [`${layer}.self_attn.q_proj.weight`, [heads * headSize, d]];
    yield [`${layer}.self_attn.k_proj.weight`, [keyValueHeads * headSize, d]];
    yield [`${layer}.self_attn.v_proj.weight`, [keyValueHeads * headSize, d]];
    yield [`${layer}.self_attn.o_proj.weight`, [d, heads * headSize]];
    yield [`${layer}.post_attention_layernorm.weight`, [d]];
    yield [`${layer}.mlp.gate_proj.weight`, [intermediateSize, d]];
    yield [`${layer}.mlp.up_proj.weight`, [intermediateSize, d]];
    yield [`${layer}.mlp.down_proj.weight`, [d, intermediateSize]];
  }
  yield ["model.norm.weight", [d]];
}

function checkTensor(checkpoint: Checkpoint, name: string, shape: readonly number[]): void {
  const found = checkpoint.info(name);
  if (!WEIGHT_TYPES.includes(found.dtype)) {
    throw new UserError(
      `${found.path}: tensor ${name} is ${found.dtype}, expected ${WEIGHT_TYPES.join(", ")}`,
    );
  }
  if (found.shape.length !== shape.length || found.shape.some((extent, i) => extent !== shape[i])) {
    throw new UserError(
      `${found.path}: tensor ${name} has shape [${found.shape.join(", ")}], expected [${shape.join(", ")}] from config.json`,
    );
  }
}

/** A model cut off by a config with too few layers, or with biases that would be left out, must not run silently. */
function checkLayers(checkpoint: Checkpoint, config: LlamaConfig): void {
  for (const name of checkpoint.names) {
    const match = /^model\.layers\.(\d+)\.(.*)$/.exec(name);
    if (!match) continue;
    if (Number(match[1]) >= config.layers) {
      throw new UserError(
        `${checkpoint.info(name).path}: tensor ${name} lies beyond the ${config.layers} layers of config.json (num_hidden_layers)`,
      );
    }
    if (match[2].endsWith(".bias")) {
      throw new UserError(
        `${checkpoint.info(name).path}: tensor ${name}: layers with biases are not supported`,
      );
    }
  }
}
