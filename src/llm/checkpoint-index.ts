import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonObject } from "../files/json.ts";
import { openSafetensors, type SafetensorsFile, type StoredType } from "../files/safetensors.ts";
import { UserError } from "../files/user-error.ts";

/** The tensors of a Hugging Face checkpoint, whether in one file or sharded. Only headers are in memory. */
export interface Checkpoint {
  readonly directory: string;
  /** Every tensor's name; rotary buffers (`rotary_emb.inv_freq`), which some checkpoints hold, are left out. */
  readonly names: readonly string[];
  has(name: string): boolean;
  /** @throws UserError when there is no such tensor. */
  info(name: string): CheckpointTensor;
  /** The tensor's bytes in pieces of at most `maxBytes`, whole elements each (see `SafetensorsFile.chunks`). */
  chunks(name: string, maxBytes: number): AsyncGenerator<Uint8Array, void, undefined>;
  /** The whole tensor as f32. For small ones (norms); see `streamWeights` for the rest. */
  float32(name: string): Promise<Float32Array>;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface CheckpointTensor {
  readonly dtype: StoredType;
  readonly shape: readonly number[];
  readonly bytes: number;
  /** The safetensors file that holds it, for messages. */
  readonly path: string;
}

/**
 * Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
 *
 * @throws UserError naming the file and tensor: no weights, a missing or damaged shard, a tensor missing from its
 * shard or held by two.
 */
export async function openCheckpoint(directory: string): Promise<Checkpoint> {
  const single = join(directory, "model.safetensors");
  const index = join(directory, "model.safetensors.index.json");
  const files: SafetensorsFile[] = [];
  const owner = new Map<string, SafetensorsFile>();
  try {
    if (existsSync(index)) await openShards(directory, index, files, owner);
    else if (existsSync(single)) {
      const file = await openSafetensors(single);
      files.push(file);
      for (const name of file.tensors.keys()) owner.set(name, file);
    } else throw noWeights(directory);
  } catch (error) {
    for (const file of files) await file.close();
    throw error;
  }
  for (const name of owner.keys()) if (name.endsWith("rotary_emb.inv_freq")) owner.delete(name);

  const fileOf = (name: string): SafetensorsFile => {
    const file = owner.get(name);
    if (file) return file;
    throw new UserError(`${directory}: the checkpoint has no tensor ${name}; download the model again`);
  };
  const close = async () => {
    for (const file of files) await file.close();
  };
  return {
    directory,
    names: [...owner.keys()],
    has: (name) => owner.has(name),
    info: (name) => {
      const { path, tensors } = fileOf(name);
      const { dtype, shape, start, end } = tensors.get(name)!;
      return { dtype, shape, bytes: end - start, path };
    },
    chunks: (name, maxBytes) => fileOf(name).chunks(name, maxBytes),
    float32: (name) => fileOf(name).float32(name),
    close,
    [Symbol.asyncDispose]: close,
  };
}

async function openShards(
  directory: string,
  index: string,
  files: SafetensorsFile[],
  owner: Map<string, SafetensorsFile>,
): Promise<void> {
  const { weight_map: map } = await readJsonObject(index);
  if (typeof map !== "object" || map === null || Array.isArray(map) || Object.keys(map).length === 0) {
    throw new UserError(`${index}: field weight_map: expected an object that names the file of each tensor`);
  }
  const shards = new Map<string, SafetensorsFile>();
  for (const [name, shard] of Object.entries(map)) {
    // A shard lies beside its index: a name with a folder in it could point anywhere.
    if (typeof shard !== "string" || /[/\\]/.test(shard) || !shard.endsWith(".safetensors")) {
      throw new UserError(
        `${index}: tensor ${name}: expected the name of a .safetensors file, found ${JSON.stringify(shard)}`,
      );
    }
    let file = shards.get(shard);
    if (!file) {
      const path = join(directory, shard);
      if (!existsSync(path)) {
        throw new UserError(`${path} is missing: ${index} says it holds tensor ${name}; finish the download`);
      }
      file = await openSafetensors(path);
      files.push(file);
      shards.set(shard, file);
    }
    if (!file.tensors.has(name)) {
      throw new UserError(`${file.path}: no tensor ${name}, though ${index} says so; download both again`);
    }
    owner.set(name, file);
  }
}

function noWeights(directory: string): UserError {
  const pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"].some((name) =>
    existsSync(join(directory, name)),
  );
  const advice = pickled
    ? "its pytorch_model*.bin files are not read: use the safetensors files of the same model"
    : "download the model's safetensors files into it";
  return new UserError(`${directory}: neither model.safetensors nor model.safetensors.index.json; ${advice}`);
}
