import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { fileError } from "../files/atomic.ts";
import { readJsonObject } from "../files/json.ts";
import { UserError } from "../files/user-error.ts";
import { SentencePieceBpe } from "./sentencepiece.ts";
import { parseSentencePieceModel } from "./sentencepiece-model.ts";

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
 * Loads the tokenizer of a Hugging Face model directory: `tokenizer.json`, or a SentencePiece `tokenizer.model`;
 * `tokenizer_config.json`, if there, says whether BOS goes in front (`add_bos_token`).
 *
 * Where both are present and have the same number of ids, the SentencePiece model decides: it is what the backbone was
 * trained with, and its copies as JSON are not always faithful (some lost the no-break space). A tokenizer.json with
 * more ids (added tokens), or beside a tokenizer.model of another kind, is used itself.
 *
 * @throws UserError naming the file: none there, damaged, or of a kind that is not supported.
 */
export async function loadTokenizer(directory: string): Promise<Tokenizer> {
  const configPath = join(directory, "tokenizer_config.json");
  const config = existsSync(configPath) ? await readJsonObject(configPath) : {};
  const jsonPath = join(directory, "tokenizer.json");
  const modelPath = join(directory, "tokenizer.model");
  const json = existsSync(jsonPath) ? await readJsonObject(jsonPath) : null;
  if (existsSync(modelPath)) {
    try {
      const model = await readSentencePiece(modelPath, config);
      if (!json || idsOf(json) === model.vocabularySize) return model;
    } catch (error) {
      if (!json || !(error instanceof UserError)) throw error;
    }
  }
  if (json) return fromJson(jsonPath, json, config);
  throw new UserError(
    `${directory}: neither tokenizer.json nor tokenizer.model; download the model's tokenizer into it`,
  );
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

async function readSentencePiece(path: string, config: Record<string, unknown>): Promise<Tokenizer> {
  const bytes = await readFile(path).catch((error) => {
    throw fileError("read", path, error);
  });
  return fromSentencePiece(new SentencePieceBpe(parseSentencePieceModel(path, bytes)), config);
}

/** Checks that every id a tokenizer can give has a row in an embedding of `rows` rows. */
export function checkVocabulary(tokenizer: Tokenizer, rows: number, directory: string): void {
  if (tokenizer.vocabularySize > rows) {
    throw new UserError(
      `${directory}: the tokenizer has ${tokenizer.vocabularySize} ids, but vocab_size in config.json is ${rows}; are they of one model?`,
    );
  }
}

function fromJson(path: string, json: Record<string, unknown>, config: Record<string, unknown>): Tokenizer {
  let tokenizer: HuggingFaceTokenizer;
  let leading: number[];
  let vocabularySize = 0;
  try {
    tokenizer = new HuggingFaceTokenizer(json, config);
    const ids = (text: string, special: boolean) =>
      tokenizer.encode(text, { add_special_tokens: special }).ids;
    // What the post-processor puts in front of a text. It has no other way to be asked.
    const bare = ids("a", false);
    const whole = ids("a", true);
    const start = whole.findIndex((_, i) => bare.every((id, j) => whole[i + j] === id));
    leading = whole.slice(0, Math.max(start, 0));
    for (const id of tokenizer.get_vocab().values()) vocabularySize = Math.max(vocabularySize, id + 1);
  } catch (error) {
    const reason = (error as Error).message.replaceAll("\n", " ");
    throw new UserError(`${path}: not a tokenizer this program can read (${reason}); download it again`);
  }
  if (config.add_bos_token === false) leading = [];
  else if (config.add_bos_token === true && leading.length === 0) {
    const token = config.bos_token as { content?: unknown } | string | null | undefined;
    const bos = typeof token === "string" ? token : token?.content;
    const id = typeof bos === "string" ? tokenizer.token_to_id(bos) : undefined;
    if (id === undefined)
      throw new UserError(`${path}: has no bos_token ${JSON.stringify(bos)}, which add_bos_token asks for`);
    leading = [id];
  }
  return {
    encode: (text) => tokenizer.encode(text, { add_special_tokens: false }).ids,
    leading,
    decode: (ids) =>
      ids.length === 0
        ? ""
        : tokenizer.decode([...ids], { skip_special_tokens: true, clean_up_tokenization_spaces: false }),
    vocabularySize,
  };
}

function fromSentencePiece(bpe: SentencePieceBpe, config: Record<string, unknown>): Tokenizer {
  const { pieces, bosId } = bpe.model;
  // ChatGLM2 puts [MASK] [gMASK] sMASK sop eop after the pieces; [gMASK] sop lead.
  const chatglm = config.tokenizer_class === "ChatGLMTokenizer";
  const bos = bosId !== null && config.add_bos_token !== false ? [bosId] : [];
  return {
    encode: (text) => bpe.encode(text),
    leading: chatglm ? [pieces.length + 1, pieces.length + 3] : bos,
    decode: (ids) => bpe.decode(chatglm ? ids.filter((id) => id < pieces.length) : ids),
    vocabularySize: pieces.length + (chatglm ? 5 : 0),
  };
}
