import { createHash } from "node:crypto";
import { open, readdir, readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileError } from "../files/atomic.ts";
import type { Gpu } from "../gpu/device.ts";
import { openDecoderCheckpoint } from "../llm/checkpoint.ts";
import { readDecoderConfig } from "../llm/config.ts";
import type { Decoder } from "../llm/decoder.ts";
import type { DecoderConfig } from "../llm/decoder-config.ts";
import { loadDecoder } from "../llm/load.ts";
import { locateBackbone } from "../llm/locate.ts";
import { checkVocabulary, loadTokenizer, type Tokenizer } from "../llm/tokenizer.ts";
import type { WeightStorage } from "../llm/weight-stream.ts";
import type { Progress } from "./progress.ts";

/** A backbone whose weights are not loaded yet: what must be right before hours go into anything else. */
export interface BackboneFiles {
  /** As the user named it, for folder names and reports. */
  readonly name: string;
  readonly directory: string;
  readonly config: DecoderConfig;
  readonly tokenizer: Tokenizer;
}

/** A loaded one. */
export interface Backbone extends BackboneFiles {
  readonly decoder: Decoder;
}

/** Finds a backbone, reads its config and tokenizer and checks the headers of its weight files. Throws UserError. */
export async function openBackbone(nameOrDirectory: string): Promise<BackboneFiles> {
  const directory = locateBackbone(nameOrDirectory);
  const config = await readDecoderConfig(directory);
  const tokenizer = await loadTokenizer(directory);
  checkVocabulary(tokenizer, config.vocabularySize, directory);
  await (await openDecoderCheckpoint(directory, config)).checkpoint.close();
  return { name: basename(nameOrDirectory), directory, config, tokenizer };
}

/** Loads a backbone's weights into GPU memory. */
export async function loadBackbone(
  gpu: Gpu,
  files: BackboneFiles,
  weights: WeightStorage,
  progress: Progress,
): Promise<Backbone> {
  const mib = (bytes: number) => Math.round(bytes / 2 ** 20);
  let begun = false;
  const onProgress = (bytes: number, total: number) => {
    if (!begun) progress.begin(`loading ${files.name}`, mib(total), "MiB");
    begun = true;
    progress.update(mib(bytes));
  };
  const decoder = await loadDecoder(gpu, files.directory, { weights, onProgress });
  progress.end();
  return { ...files, decoder };
}

/** What identifies the files of a backbone without reading gigabytes. */
export interface Fingerprint {
  /** sha256 of config.json and of every tokenizer file. */
  readonly files: Readonly<Record<string, string>>;
  /** Of every weight file: its size, and the sha256 of its header and of 64 pieces spread over its data. */
  readonly weights: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>;
}

const TEXT_FILES = [
  "config.json",
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "vocab.json",
  "merges.txt",
];
/** safetensors, and pytorch_model*.bin (other .bin files, such as training_args.bin, are no weights). */
const WEIGHT_FILES = /\.safetensors$|^pytorch_model.*\.bin$/;
/** Pieces of a weight file that are hashed, and the bytes of each. */
const PIECES = 64;
const PIECE = 65536;

/** Fingerprints a backbone's directory: the same files give the same fingerprint wherever they lie. */
export async function fingerprint(directory: string): Promise<Fingerprint> {
  try {
    const names = (await readdir(directory)).sort();
    const files: Record<string, string> = {};
    const weights: Record<string, { bytes: number; sha256: string }> = {};
    for (const name of names) {
      const path = join(directory, name);
      if (TEXT_FILES.includes(name)) files[name] = sha256(await readFile(path));
      else if (WEIGHT_FILES.test(name)) weights[name] = await sampleHash(path);
    }
    return { files, weights };
  } catch (error) {
    throw fileError("read", directory, error);
  }
}

/** Small files whole; of large ones the start (the header), the end and evenly spread pieces. */
async function sampleHash(path: string): Promise<{ bytes: number; sha256: string }> {
  const { size } = await stat(path);
  const hash = createHash("sha256");
  const file = await open(path, "r");
  try {
    const buffer = Buffer.alloc(PIECE);
    const whole = size <= PIECES * PIECE;
    const count = whole ? Math.ceil(size / PIECE) : PIECES;
    for (let i = 0; i < count; i++) {
      const at = whole ? i * PIECE : Math.floor((i * (size - PIECE)) / (PIECES - 1));
      const { bytesRead } = await file.read(buffer, 0, PIECE, at);
      hash.update(buffer.subarray(0, bytesRead));
    }
  } finally {
    await file.close();
  }
  return { bytes: size, sha256: hash.digest("hex") };
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The first file that differs between two fingerprints, or null. */
export function changedFile(then: Fingerprint, now: Fingerprint): string | null {
  for (const part of ["files", "weights"] as const) {
    for (const name of new Set([...Object.keys(then[part]), ...Object.keys(now[part])])) {
      if (JSON.stringify(then[part][name]) !== JSON.stringify(now[part][name])) return name;
    }
  }
  return null;
}
