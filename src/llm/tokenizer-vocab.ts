import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileError } from "../files/atomic.ts";
import { readJsonObject } from "../files/json.ts";
import { UserError } from "../files/user-error.ts";
import { tokenText } from "./tokenizer-json.ts";

/**
 * GPT-2's tokenizer as it was published, `vocab.json` (token to id) and `merges.txt` (pairs, the first to be merged
 * first), as the content of a tokenizer.json. Other byte-level tokenizers come in these two files too, with another way
 * to cut words that stands in neither: `tokenizer_class` of tokenizer_config.json must not name one of them.
 *
 * @param config the content of tokenizer_config.json.
 * @throws UserError naming the file and line.
 */
export async function gpt2TokenizerJson(
  directory: string,
  config: Record<string, unknown>,
): Promise<Record<string, unknown>> {
  const { tokenizer_class: kind } = config;
  if (kind !== undefined && kind !== "GPT2Tokenizer" && kind !== "GPT2TokenizerFast") {
    throw new UserError(
      `${directory}: vocab.json with merges.txt are read as GPT-2's, and tokenizer_config.json says ${JSON.stringify(kind)}; download the model's tokenizer.json into it`,
    );
  }
  const vocab = await readVocabulary(join(directory, "vocab.json"));
  const merges = await readMerges(join(directory, "merges.txt"), vocab);
  const byteLevel = { type: "ByteLevel", add_prefix_space: config.add_prefix_space === true };
  const named = ["bos_token", "eos_token", "unk_token"].map((name) => tokenText(config[name]));
  const special = new Set(
    [...named, "<|endoftext|>"].filter((token) => token !== undefined && token in vocab),
  );
  return {
    added_tokens: [...special].map((content) => ({ id: vocab[content!], content, special: true })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: byteLevel,
    decoder: byteLevel,
    model: { type: "BPE", vocab, merges },
  };
}

async function readVocabulary(path: string): Promise<Record<string, number>> {
  const vocab = await readJsonObject(path);
  const ids = new Set<unknown>();
  for (const [token, id] of Object.entries(vocab)) {
    if (typeof id !== "number" || !Number.isSafeInteger(id) || id < 0 || ids.has(id)) {
      throw new UserError(
        `${path}: token ${JSON.stringify(token)}: expected an id of its own, found ${JSON.stringify(id)}`,
      );
    }
    ids.add(id);
  }
  const missing = byteCharacters().findIndex((character) => !Object.hasOwn(vocab, character));
  if (missing >= 0) {
    throw new UserError(`${path}: no token for byte ${missing}, expected one for each of the 256 bytes`);
  }
  return vocab as Record<string, number>;
}

async function readMerges(path: string, vocab: Record<string, number>): Promise<[string, string][]> {
  const text = await readFile(path, "utf8").catch((error) => {
    throw fileError("read", path, error);
  });
  const merges: [string, string][] = [];
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    if (line === "" || (i === 0 && line.startsWith("#version"))) continue;
    const [left, right, ...more] = line.split(" ");
    if (!left || !right || more.length > 0) {
      throw new UserError(`${path}, line ${i + 1}: expected two tokens with a space between them`);
    }
    if (!Object.hasOwn(vocab, left + right)) {
      throw new UserError(
        `${path}, line ${i + 1}: ${left + right} is not in vocab.json; are they of one model?`,
      );
    }
    merges.push([left, right]);
  }
  if (merges.length === 0) throw new UserError(`${path}: no merges; download it again`);
  return merges;
}

/** GPT-2's character for each byte: itself where it is printable and no space, else the next from U+0100 on. */
function byteCharacters(): string[] {
  const printable = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
}
