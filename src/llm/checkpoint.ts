import type { StoredType } from "../files/safetensors.ts";
import { UserError } from "../files/user-error.ts";
import type { TensorNames } from "./architectures/architecture.ts";
import { architectureOfClass } from "./architectures/table.ts";
import { type Checkpoint, openCheckpoint } from "./checkpoint-index.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { type DecoderWeights, sourceTensors, type WeightSource, weightSources } from "./decoder-weights.ts";

/** The dtypes that weights may be stored in. */
export const WEIGHT_TYPES: readonly StoredType[] = ["F32", "F16", "BF16"];

/** A checkpoint that holds all of a decoder's weights, and where it does. */
export interface DecoderCheckpoint {
  readonly checkpoint: Checkpoint;
  readonly sources: DecoderWeights<WeightSource>;
}

/**
 * Opens a checkpoint and checks that it holds every tensor that a decoder of this config needs, with the right shape
 * and a dtype of F32, F16 or BF16, and in its layers nothing else. Tensors elsewhere that are not needed (the head,
 * rotary buffers) may be present. Close `checkpoint` after use.
 *
 * @throws UserError naming the file and the tensor, what was expected and what was found.
 */
export async function openDecoderCheckpoint(
  directory: string,
  config: DecoderConfig,
): Promise<DecoderCheckpoint> {
  const checkpoint = await openCheckpoint(directory);
  try {
    const names = architectureOfClass(config.architecture)!.tensors;
    const prefix = prefixOf(checkpoint, names);
    const sources = weightSources(config, prefix);
    const expected = sourceTensors(sources);
    const missing = expected.filter(({ name }) => !checkpoint.has(name));
    if (missing.length > 0) {
      const more = missing.length > 1 ? ` and ${missing.length - 1} more` : "";
      throw new UserError(
        `${directory}: tensor ${missing[0].name}${more} that config.json asks for is not in the checkpoint; are config and weights of one model?`,
      );
    }
    for (const { name, shape } of expected) checkTensor(checkpoint, name, shape);
    // Never run, but a head of another shape means that config and weights are not of one model.
    const head = `${names.head}.weight`;
    if (checkpoint.has(head)) checkTensor(checkpoint, head, [config.vocabularySize, config.hiddenSize]);
    checkLayers(checkpoint, config, names, prefix, new Set(expected.map(({ name }) => name)));
    return { checkpoint, sources };
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
}

/** The first prefix under which the checkpoint holds the token embedding; the first of all when none does. */
function prefixOf(checkpoint: Checkpoint, { prefixes, embedding }: TensorNames): string {
  return prefixes.find((prefix) => checkpoint.has(`${prefix}${embedding}.weight`)) ?? prefixes[0];
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
function checkLayers(
  checkpoint: Checkpoint,
  config: DecoderConfig,
  names: TensorNames,
  prefix: string,
  expected: ReadonlySet<string>,
): void {
  const start = `${prefix}${names.layers}.`;
  for (const name of checkpoint.names) {
    if (!name.startsWith(start) || expected.has(name)) continue;
    const { path } = checkpoint.info(name);
    const [, layer, rest] = /^(\d+)\.(.*)$/.exec(name.slice(start.length)) ?? [];
    if (layer === undefined || names.ignored?.includes(rest)) continue;
    if (Number(layer) >= config.layers) {
      throw new UserError(`${path}: tensor ${name} lies beyond the ${config.layers} layers of config.json`);
    }
    throw new UserError(
      `${path}: tensor ${name} is not part of a ${config.architecture} as its config.json describes it, and would be left out; are config and weights of one model?`,
    );
  }
}
