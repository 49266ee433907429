import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonObject } from "../files/json.ts";
import { openSafetensors } from "../files/safetensors.ts";
import type { StoredType } from "../files/stored-tensor.ts";
import type { TensorFile } from "../files/tensor-file.ts";
import { openTorchBin } from "../files/torch-bin.ts";
import { UserError } from "../files/user-error.ts";

/** The tensors of a Hugging Face checkpoint, whether in one file or sharded. Only headers are in memory. */
export interface Checkpoint {
  readonly directory: string;
  /** Every tensor's name; rotary frequencies (`...inv_freq`), which some checkpoints hold as buffers, are left out. */
  readonly names: readonly string[];
  has(name: string): boolean;
  /** @throws UserError when there is no such tensor. */
  info(name: string): CheckpointTensor;
  /** Fills `bytes` with those of a tensor from its byte `from` on. */
  readInto(name: string, from: number, bytes: Uint8Array): Promise<void>;
  /** The tensor's bytes in pieces of at most `maxBytes`, whole elements each (see `TensorFile.chunks`). */
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
  /** The file that holds it. */
  readonly path: string;
  /** Its first byte in that file. */
  readonly start: number;
}

/** The formats of weight files: the name of a single file (the index of shards is NAME.index.json), and its reader. */
const FORMATS: readonly {
  readonly single: string;
  readonly extension: string;
  readonly open: (path: string) => Promise<TensorFile>;
}[] = [
  { single: "model.safetensors", extension: ".safetensors", open: openSafetensors },
  { single: "pytorch_model.bin", extension: ".bin", open: openTorchBin },
];

/**
 * Opens the weights of a directory: `model.safetensors`, or the shards that `model.safetensors.index.json` names;
 * without either, `pytorch_model.bin` or the shards that `pytorch_model.bin.index.json` names.
 *
 * @throws UserError naming the file and tensor: no weights, a missing or damaged shard, a tensor missing from its
 * shard.
 */
export async function openCheckpoint(directory: string): Promise<Checkpoint> {
  const files: TensorFile[] = [];
  const owner = new Map<string, TensorFile>();
  try {
    await openFiles(directory, files, owner);
  } catch (error) {
    for (const file of files) await file.close();
    throw error;
  }
  for (const name of owner.keys()) if (name.endsWith(".inv_freq")) owner.delete(name);

  const fileOf = (name: string): TensorFile => {
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
      return { dtype, shape, bytes: end - start, path, start };
    },
    readInto: (name, from, bytes) => fileOf(name).readInto(name, from, bytes),
    chunks: (name, maxBytes) => fileOf(name).chunks(name, maxBytes),
    float32: (name) => fileOf(name).float32(name),
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** Opens the files of the first format that the directory has; `owner` says which holds each tensor. */
async function openFiles(
  directory: string,
  files: TensorFile[],
  owner: Map<string, TensorFile>,
): Promise<void> {
  for (const { single, extension, open } of FORMATS) {
    const path = join(directory, single);
    const index = `${path}.index.json`;
    const shards = new Map<string, TensorFile>();
    const add = async (path: string) => {
      const file = await open(path);
      files.push(file);
      return file;
    };
    if (existsSync(index)) {
      for (const [name, shard] of await readIndex(index, extension)) {
        const path = join(directory, shard);
        if (!shards.has(shard) && !existsSync(path)) {
          throw new UserError(
            `${path} is missing: ${index} says it holds tensor ${name}; finish the download`,
          );
        }
        const file = shards.get(shard) ?? (await add(path));
        shards.set(shard, file);
        if (!file.tensors.has(name)) {
          throw new UserError(
            `${file.path}: no tensor ${name}, though ${index} says so; download both again`,
          );
        }
        owner.set(name, file);
      }
      return;
    }
    if (existsSync(path)) {
      const file = await add(path);
      for (const name of file.tensors.keys()) owner.set(name, file);
      return;
    }
  }
  const names = FORMATS.map(({ single }) => `${single} or ${single}.index.json`).join(", nor ");
  throw new UserError(`${directory}: no ${names}; download the model's weights into it`);
}

/** The tensors of an index and the shard of each. */
async function readIndex(index: string, extension: string): Promise<[name: string, shard: string][]> {
  const { weight_map: map } = await readJsonObject(index);
  if (typeof map !== "object" || map === null || Array.isArray(map) || Object.keys(map).length === 0) {
    throw new UserError(`${index}: field weight_map: expected an object that names the file of each tensor`);
  }
  return Object.entries(map).map(([name, shard]) => {
    // A shard lies beside its index: a name with a folder in it could point anywhere.
    if (typeof shard !== "string" || /[/\\]/.test(shard) || !shard.endsWith(extension)) {
      throw new UserError(
        `${index}: tensor ${name}: expected the name of a ${extension} file, found ${JSON.stringify(shard)}`,
      );
    }
    return [name, shard];
  });
}
