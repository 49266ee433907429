import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { UserError } from "../files/user-error.ts";
import type { Tokenizer } from "./tokenizer.ts";

type Json = Record<string, unknown>;

/** One entry of `added_tokens`, as far as it is used here. */
interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
}

/**
 * A tokenizer from the content of a tokenizer.json (BPE), read by @huggingface/tokenizers.
 *
 * Text is only text: what looks like a special token (`<|endoftext|>` in an item's title) is split like any other, as
 * in the encoders that the models were published with. Special tokens come from `leading` alone, which is what the
 * file's post-processor puts in front, unless `add_bos_token` of tokenizer_config.json says otherwise.
 *
 * @param path of the file, for messages.
 * @param config the content of tokenizer_config.json.
 * @throws UserError naming the file: not a tokenizer, or not of byte pairs.
 */
export function fromTokenizerJson(path: string, json: Json, config: Json): Tokenizer {
  const model = json.model as { type?: string; vocab?: Record<string, number>; merges?: unknown } | undefined;
  if (typeof model?.vocab === "object" && (model.type ?? "BPE") !== "BPE") {
    throw new UserError(`${path}: a ${model.type} tokenizer is not supported, expected BPE`);
  }
  const special = new Set<number>();
  let tokenizer: HuggingFaceTokenizer;
  let leading: number[];
  let vocabularySize = 0;
  try {
    tokenizer = new HuggingFaceTokenizer(exactWords(path, specialApart(json, special)), config);
    const ids = (text: string, withSpecial: boolean) =>
      tokenizer.encode(text, { add_special_tokens: withSpecial }).ids;
    // What the post-processor puts in front of a text. It has no other way to be asked.
    const bare = ids("a", false);
    const whole = ids("a", true);
    const start = whole.findIndex((_, i) => bare.every((id, j) => whole[i + j] === id));
    leading = whole.slice(0, Math.max(start, 0));
    for (const id of tokenizer.get_vocab().values()) vocabularySize = Math.max(vocabularySize, id + 1);
  } catch (error) {
    if (error instanceof UserError) throw error;
    const reason = (error as Error).message.replaceAll("\n", " ");
    throw new UserError(`${path}: not a tokenizer this program can read (${reason}); download it again`);
  }
  if (config.add_bos_token === false) leading = [];
  else if (config.add_bos_token === true && leading.length === 0) {
    const bos = tokenText(config.bos_token);
    const id = bos === undefined ? undefined : tokenizer.token_to_id(bos);
    if (id === undefined)
      throw new UserError(`${path}: has no bos_token ${JSON.stringify(bos)}, which add_bos_token asks for`);
    leading = [id];
  }
  return {
    // UTF-8 has no form for half of a surrogate pair: it becomes U+FFFD, here rather than somewhere in the library.
    encode: (text) =>
      tokenizer.encode(text.replace(/\p{Surrogate}/gu, "\ufffd"), { add_special_tokens: false }).ids,
    leading,
    decode: (ids) => {
      const plain = ids.filter((id) => !special.has(id));
      return plain.length === 0
        ? ""
        : tokenizer.decode(plain, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
    },
    vocabularySize,
  };
}

/** A token of a config: its text, or an object with it. */
export function tokenText(token: unknown): string | undefined {
  const text = typeof token === "object" && token !== null ? (token as { content?: unknown }).content : token;
  return typeof text === "string" ? text : undefined;
}

/**
 * The same tokenizer with its special tokens in the vocabulary only, where no merge leads to them; their ids go into
 * `special`. In `added_tokens` they would be cut out of every text.
 */
function specialApart(json: Json, special: Set<number>): Json {
  const { added_tokens: added, model } = json as {
    added_tokens?: AddedToken[];
    model?: { vocab: Record<string, number> };
  };
  if (!Array.isArray(added) || !model) return json;
  const tokens = added.filter((token) => token?.special === true);
  for (const { id } of tokens) special.add(id);
  const vocab = { ...model.vocab, ...Object.fromEntries(tokens.map(({ content, id }) => [content, id])) };
  return {
    ...json,
    added_tokens: added.filter((token) => token?.special !== true),
    model: { ...model, vocab },
  };
}

/** How GPT-2 cuts a text into words, in the words of the regular expressions of tokenizer.json. */
const GPT2_WORDS = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/**
 * The same tokenizer, said so that the library cuts words as the original does. In its own copy of GPT-2's expression
 * JavaScript's \s lacks U+0085 and has U+FEFF; in an expression of the file it translates \s rightly, but (?i:'s) to
 * the letters of ASCII, without the long s that Unicode folds to s.
 */
function exactWords(path: string, json: Json): Json {
  const { pre_tokenizer: step, normalizer } = json as { pre_tokenizer?: Json; normalizer?: unknown };
  if (step?.type !== "ByteLevel" || step.use_regex === false || !step.add_prefix_space) {
    return { ...json, pre_tokenizer: exactStep(path, step) };
  }
  // The space in front belongs before the text, not before each of its words.
  const space = { type: "Replace", pattern: { Regex: "\\A(?! )(?=[\\s\\S])" }, content: " " };
  return {
    ...json,
    normalizer: { type: "Sequence", normalizers: normalizer ? [normalizer, space] : [space] },
    pre_tokenizer: exactStep(path, { ...step, add_prefix_space: false }),
  };
}

/** One pre-tokenizer. Refused is what the library passes over in silence. */
function exactStep(path: string, step: Json | null | undefined): Json | null | undefined {
  const refused = (what: string) =>
    new UserError(`${path}: pre_tokenizer ${what} is not supported; use the model's tokenizer.model`);
  switch (step?.type) {
    case "Sequence": {
      const steps = step.pretokenizers as Json[];
      return { ...step, pretokenizers: steps.map((inner) => exactStep(path, inner)) };
    }
    case "Metaspace":
      if (step.split !== false) throw refused("Metaspace with split");
      return step;
    case "Split": {
      const { Regex: regex } = step.pattern as { Regex?: string };
      if (step.behavior !== "Isolated" && step.behavior !== "Removed") {
        throw refused(`Split with behavior ${JSON.stringify(step.behavior)}`);
      }
      if (regex === undefined) return step;
      const withLongS = (group: string) => group.replace(/s/gi, "[s\u017f]");
      return { ...step, pattern: { Regex: regex.replace(/\(\?i:[^()[\]\\]*\)/g, withLongS) } };
    }
    case "ByteLevel": {
      if (step.use_regex === false) return step;
      // Behind another step each of its pieces gets the space: the library's own way, for want of a better one.
      if (step.add_prefix_space) return step;
      const words = { type: "Split", pattern: { Regex: GPT2_WORDS }, behavior: "Isolated", invert: false };
      return { type: "Sequence", pretokenizers: [words, { ...step, use_regex: false }] };
    }
    default:
      return step;
  }
}
