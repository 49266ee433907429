/**
 * Checkpoints of random weights in the geometry and file layout of a published model, for tests of loading, memory and
 * speed where the real weights are not at hand (weights/make-random.mjs).
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Random } from "../data/random.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { ITEM_BYTES, type StoredType, type TensorToWrite, writeSafetensors } from "../files/safetensors.ts";
import { writeTorchBin } from "../files/torch-bin-write.ts";
import { sizeOf } from "../gpu/tensor.ts";
import { architectureOfClass } from "./architectures/table.ts";
import { parseDecoderConfig } from "./config.ts";
import { everyWeight, type SourceTensor, weightSources } from "./decoder-weights.ts";

export interface RandomCheckpointOptions {
  readonly seed: number;
  /** Bytes of a file at most (a larger tensor has a file of its own). */
  readonly shardBytes: number;
  /** The files' format; safetensors unless said otherwise. */
  readonly format?: WeightFormat;
  /** Called when a file is complete. */
  readonly onFile?: (name: string, bytes: number) => void;
}

export type WeightFormat = "safetensors" | "torch";

/** How the files of a format are named, as published, and written. */
const FORMATS = {
  safetensors: {
    stem: "model",
    extension: ".safetensors",
    write: (path: string, tensors: readonly TensorToWrite[]) =>
      writeSafetensors(path, tensors, { format: "pt" }),
  },
  torch: { stem: "pytorch_model", extension: ".bin", write: writeTorchBin },
} as const;

/** Values made at a time. */
const PIECE = 2 ** 20;

const DTYPES: Readonly<Record<string, StoredType>> = { float32: "F32", float16: "F16", bfloat16: "BF16" };

/**
 * Writes config.json and the weights that it describes into a directory: one model.safetensors (or
 * pytorch_model.bin), or shards with their index. `json.torch_dtype` is the type of the weights, F32 without it; as published, an untied head is there too, and
 * GPT-2's mask buffers. Tensors are made in pieces: memory stays small. Equal arguments give equal files.
 */
export async function writeRandomCheckpoint(
  directory: string,
  json: Readonly<Record<string, unknown>>,
  { seed, shardBytes, format = "safetensors", onFile }: RandomCheckpointOptions,
): Promise<void> {
  await mkdir(directory, { recursive: true });
  await writeFileAtomic(join(directory, "config.json"), `${JSON.stringify(json, null, 2)}\n`);
  const shards = randomShards(json, shardBytes, seed);
  const { stem, extension, write } = FORMATS[format];
  const map: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    const number = (n: number) => String(n).padStart(5, "0");
    const part = shards.length === 1 ? "" : `-${number(i + 1)}-of-${number(shards.length)}`;
    const file = `${stem}${part}${extension}`;
    await write(join(directory, file), shard);
    for (const { name } of shard) map[name] = file;
    onFile?.(file, bytesOf(shard));
  }
  if (shards.length === 1) return;
  const index = { metadata: { total_size: bytesOf(shards.flat()) }, weight_map: map };
  await writeFileAtomic(
    join(directory, `${stem}${extension}.index.json`),
    `${JSON.stringify(index, null, 2)}\n`,
  );
}

/** The tensors of `writeRandomCheckpoint`, file by file; their values are made when they are written. */
export function randomShards(
  json: Readonly<Record<string, unknown>>,
  shardBytes: number,
  seed = 1,
): TensorToWrite[][] {
  const dtype = DTYPES[(json.torch_dtype as string | undefined) ?? "float32"];
  const tensors = tensorsOf(json).map(({ name, shape, exponent }) => ({
    name,
    shape,
    dtype,
    data: () => values(new Random(seed, "random weights", name), sizeOf(shape), dtype, exponent),
  }));
  return cut(tensors, shardBytes);
}

/** Every tensor that the published file of such a model holds; values are about 2^exponent, or 1 without one. */
function tensorsOf(json: Readonly<Record<string, unknown>>): (SourceTensor & { exponent: number | null })[] {
  const config = parseDecoderConfig("config.json", json);
  const names = architectureOfClass(config.architecture)!.tensors;
  const tensors = everyWeight(weightSources(config)).flatMap(({ parts, role }) =>
    parts.map(({ name, shape }) => {
      // A norm's weights are about 1; biases, and weights divided by the root of their inputs, leave unit sizes alone.
      if (role === "vector") return { name, shape, exponent: name.endsWith(".bias") ? -4 : null };
      return { name, shape, exponent: -Math.ceil(Math.log2(config.hiddenSize) / 2) };
    }),
  );
  if (json.tie_word_embeddings === false) {
    const shape = [config.vocabularySize, config.hiddenSize];
    tensors.push({ name: `${names.head}.weight`, shape, exponent: -6 });
  }
  if (names.ignored?.includes("attn.bias")) {
    const shape = [1, 1, config.maxPositions, config.maxPositions];
    for (let n = 0; n < config.layers; n++) {
      tensors.push({ name: `${names.prefixes[0]}${names.layers}.${n}.attn.bias`, shape, exponent: null });
    }
  }
  return tensors;
}

function cut(tensors: readonly TensorToWrite[], shardBytes: number): TensorToWrite[][] {
  const shards: TensorToWrite[][] = [[]];
  for (const tensor of tensors) {
    const last = shards[shards.length - 1];
    if (last.length && bytesOf([...last, tensor]) > shardBytes) shards.push([tensor]);
    else last.push(tensor);
  }
  return shards;
}

function bytesOf(tensors: readonly TensorToWrite[]): number {
  return tensors.reduce((sum, { dtype, shape }) => sum + ITEM_BYTES[dtype] * sizeOf(shape), 0);
}

/**
 * `count` values in pieces: random signs and upper mantissa bits under one exponent, sizes from 2^exponent to twice
 * that, which every type holds exactly; or ones.
 */
function* values(
  random: Random,
  count: number,
  dtype: StoredType,
  exponent: number | null,
): Generator<ArrayBufferView> {
  for (let first = 0; first < count; first += PIECE) {
    const size = Math.min(PIECE, count - first);
    const words = dtype === "F32" ? new Uint32Array(size) : new Uint16Array(size);
    const [mantissa, bias] = dtype === "F16" ? [10, 15] : dtype === "BF16" ? [7, 127] : [23, 127];
    const [sign, unit] = dtype === "F32" ? [31, 2 ** 23] : [15, 2 ** mantissa];
    if (exponent === null) words.fill(bias * unit);
    else {
      // Seven bits of mantissa and the sign: what bf16 holds too.
      for (let i = 0; i < size; i++) {
        const bits = random.u32();
        const value = (bits >>> 31) * 2 ** sign + (bias + exponent) * unit;
        words[i] = value + ((bits & 0x7f) << (mantissa - 7));
      }
    }
    yield words;
  }
}
