import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileError } from "../files/atomic.ts";
import { readJsonObject } from "../files/json.ts";
import { UserError } from "../files/user-error.ts";
import { SentencePieceBpe } from "./sentencepiece.ts";
import { parseSentencePieceModel } from "./sentencepiece-model.ts";
import { fromTokenizerJson } from "./tokenizer-json.ts";
import { gpt2TokenizerJson } from "./tokenizer-vocab.ts";

/** Text to token ids and back, as a backbone's own tokenizer does it. */
export interface Tokenizer {
  /** Ids of a text, without the special tokens that belong around it. */
  encode(text: string): number[];
  /** The special ids that belong in front of a sequence (Llama: BOS). */
  readonly leading: readonly number[];
  /** The text of ids; special tokens give nothing. */
  decode(ids: readonly number[]): string;
  /** Every id is below this. */
  readonly vocabularySize: number;
}

/**
 * Loads the tokenizer of a Hugging Face model directory: `tokenizer.json`, a SentencePiece `tokenizer.model`, or GPT-2's
 * `vocab.json` with `merges.txt`. `tokenizer_config.json`, if there, says whether BOS goes in front (`add_bos_token`).
 *
 * Where tokenizer.json and tokenizer.model are both present and have the same number of ids, the SentencePiece model
 * decides: it is what the backbone was trained with, and its copies as JSON are not always faithful (some lost the
 * no-break space). A tokenizer.json with more ids (added tokens), or beside a tokenizer.model of another kind, is used
 * itself.
 *
 * @throws UserError naming the file: none there, damaged, or of a kind that is not supported.
 */
export async function loadTokenizer(directory: string): Promise<Tokenizer> {
  const optional = async (name: string) => {
    const path = join(directory, name);
    return existsSync(path) ? await readJsonObject(path) : null;
  };
  const config = (await optional("tokenizer_config.json")) ?? {};
  const json = await optional("tokenizer.json");
  const modelPath = join(directory, "tokenizer.model");
  if (existsSync(modelPath)) {
    try {
      const chatglm = isChatGlm(config, await optional("config.json"));
      const model = await readSentencePiece(modelPath, config, chatglm);
      if (!json || idsOf(json) === model.vocabularySize) return model;
    } catch (error) {
      if (!json || !(error instanceof UserError)) throw error;
    }
  }
  if (json) return fromTokenizerJson(join(directory, "tokenizer.json"), json, config);
  if (["vocab.json", "merges.txt"].every((name) => existsSync(join(directory, name)))) {
    return fromTokenizerJson(
      join(directory, "vocab.json"),
      await gpt2TokenizerJson(directory, config),
      config,
    );
  }
  throw new UserError(
    `${directory}: no tokenizer.json, tokenizer.model or vocab.json with merges.txt; download the model's tokenizer into it`,
  );
}

/** ChatGLM's own special tokens stand in its program only: the class of the tokenizer or of the model tells. */
function isChatGlm(
  tokenizerConfig: Record<string, unknown>,
  config: Record<string, unknown> | null,
): boolean {
  return tokenizerConfig.tokenizer_class === "ChatGLMTokenizer" || config?.model_type === "chatglm";
}

/** One more than the largest id of a tokenizer.json (0 when it is not one). */
function idsOf(json: Record<string, unknown>): number {
  const { model, added_tokens: added } = json as {
    model?: { vocab?: object };
    added_tokens?: { id: unknown }[];
  };
  const ids: unknown[] = Object.values(model?.vocab ?? {});
  if (Array.isArray(added)) ids.push(...added.map((token) => token?.id));
  return ids.reduce((most: number, id) => (typeof id === "number" ? Math.max(most, id + 1) : most), 0);
}

async function readSentencePiece(
  path: string,
  config: Record<string, unknown>,
  chatglm: boolean,
): Promise<Tokenizer> {
  const bytes = await readFile(path).catch((error) => {
    throw fileError("read", path, error);
  });
  return fromSentencePiece(new SentencePieceBpe(parseSentencePieceModel(path, bytes)), config, chatglm);
}

/** Checks that every id a tokenizer can give has a row in an embedding of `rows` rows. */
export function checkVocabulary(tokenizer: Tokenizer, rows: number, directory: string): void {
  if (tokenizer.vocabularySize > rows) {
    throw new UserError(
      `${directory}: the tokenizer has ${tokenizer.vocabularySize} ids, but vocab_size in config.json is ${rows}; are they of one model?`,
    );
  }
}

function fromSentencePiece(
  bpe: SentencePieceBpe,
  config: Record<string, unknown>,
  chatglm: boolean,
): Tokenizer {
  const { pieces, bosId } = bpe.model;
  const bos = bosId !== null && config.add_bos_token !== false ? [bosId] : [];
  // ChatGLM2 puts [MASK] [gMASK] [sMASK] sop eop after the pieces; [gMASK] sop lead.
  const after = chatglm ? 5 : 0;
  return {
    encode: (text) => bpe.encode(text),
    leading: chatglm ? [pieces.length + 1, pieces.length + 3] : bos,
    decode: (ids) => bpe.decode(ids.filter((id) => id < pieces.length || id >= pieces.length + after)),
    vocabularySize: pieces.length + after,
  };
}
