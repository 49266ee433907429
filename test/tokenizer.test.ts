import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { UserError } from "../src/files/user-error.ts";
import { SentencePieceBpe } from "../src/llm/sentencepiece.ts";
import { parseSentencePieceModel } from "../src/llm/sentencepiece-model.ts";
import { checkVocabulary, loadTokenizer, type Tokenizer } from "../src/llm/tokenizer.ts";
import { type ModelOptions, type PieceRow, sentencePieceBytes } from "./sentencepiece-bytes.ts";
import { repositoryPath, sharedPath } from "./shared.ts";

const t = suite("tokenizers");
const folder = mkdtempSync(join(tmpdir(), "tokenizer-"));
t.after(() => rmSync(folder, { recursive: true }));

/** A fresh model directory with these files. */
let directories = 0;
function directory(files: Record<string, string | Uint8Array>): string {
  const path = join(folder, String(directories++));
  mkdirSync(path);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(path, name), content);
  return path;
}

async function refusal(run: () => unknown): Promise<string> {
  try {
    await run();
  } catch (error) {
    assert.instance(error, UserError);
    assert.not.match((error as Error).message, "\n");
    return (error as Error).message;
  }
  throw new Error("it was accepted");
}

const PIECES: PieceRow[] = [
  ["<unk>", 0, 2],
  ["<s>", 0, 3],
  ["</s>", 0, 3],
  ["[S]", 0, 4],
  ["▁a", -1],
  ["bc", -2],
  ["abc", -3, 5],
  ["ab", -4],
  ["▁▁", -5],
  ["aa", -6],
  ["▁", -7],
  ["a", -8],
  ["b", -9],
  ["c", -10],
  ["é", -11],
];

function bpe(pieces: readonly PieceRow[], options: ModelOptions = {}): SentencePieceBpe {
  return new SentencePieceBpe(parseSentencePieceModel("test.model", sentencePieceBytes(pieces, options)));
}

// Ids and texts by Python's sentencepiece 0.1.97 on the very bytes that sentencePieceBytes(PIECES, options) writes.
const CASES: [options: ModelOptions, cases: [text: string, ids: number[], decoded: string][]][] = [
  [
    {},
    [
      ["", [], ""],
      ["a", [4], "a"],
      [" ", [8], " "],
      ["a  a", [4, 10, 4], "a  a"],
      ["  ab ", [8, 4, 12, 10], "  ab "],
      ["abc", [4, 5], "abc"],
      ["cabc", [10, 13, 11, 5], "cabc"],
      ["aaaaa", [4, 9, 9], "aaaaa"],
      ["[S]a[S]", [10, 3, 11, 3], "[S]a[S]"],
      ["a[S] b", [4, 3, 10, 12], "a[S] b"],
      ["xyzé", [10, 0, 14], " ⁇ é"],
      ["x a", [10, 0, 4], " ⁇  a"],
      ["abcabcx", [4, 5, 11, 5, 0], "abcabc ⁇ "],
      ["</s>", [10, 0], " ⁇ "],
      ["▁a▁", [10, 4, 10], " a "],
    ],
  ],
  [
    { removeExtraWhitespaces: true },
    [
      [" ", [], ""],
      ["a  a", [4, 4], "a a"],
      ["  ab ", [4, 12], "ab"],
      ["[S]a[S]", [10, 3, 11, 3], "[S]a[S]"],
      ["▁a▁", [10, 4], "a"],
    ],
  ],
  [
    { addDummyPrefix: false },
    [
      ["a", [11], "a"],
      [" ", [10], " "],
      ["aaaaa", [9, 9, 11], "aaaaa"],
      ["  ab ", [10, 4, 12, 10], "  ab "],
      ["abcabcx", [11, 5, 11, 5, 0], "abcabc ⁇ "],
      ["▁a▁", [4, 10], " a "],
    ],
  ],
];

t(
  "SentencePiece BPE: merges by score, leftmost first; user-defined, unused and unknown pieces; whitespace",
  () => {
    for (const [options, cases] of CASES) {
      const tokenizer = bpe(PIECES, options);
      for (const [text, ids, decoded] of cases) {
        const name = `${JSON.stringify(options)} ${JSON.stringify(text)}`;
        assert.equal(tokenizer.encode(text), ids, name);
        assert.is(tokenizer.decode(ids), decoded, name);
      }
    }
  },
);

t("an unused piece is taken apart into what it was merged of", () => {
  const pieces: PieceRow[] = [
    ...PIECES.slice(0, 3),
    ["ab", -1, 5],
    ["a", -2],
    ["b", -3],
    ["abc", -4],
    ["c", -5],
  ];
  const tokenizer = bpe(pieces, { addDummyPrefix: false });
  assert.equal(tokenizer.encode("ab"), [4, 5]);
  assert.equal(tokenizer.encode("abc"), [6], "the unused piece still leads to longer ones");
});

t("byte fallback, lone surrogates, and bytes that are no UTF-8", () => {
  const bytes = Array.from({ length: 256 }, (_, byte): PieceRow => {
    return [`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`, 0, 6];
  });
  const tokenizer = bpe([...PIECES, ...bytes], { byteFallback: true });
  const byte = (value: number) => PIECES.length + value;
  assert.equal(tokenizer.encode("a😀"), [4, ...[0xf0, 0x9f, 0x98, 0x80].map(byte)]);
  assert.is(tokenizer.decode(tokenizer.encode("a😀\0é\n")), "a😀\0é\n");
  assert.equal(tokenizer.encode("a\ud83d"), tokenizer.encode("a\ufffd"));
  assert.is(tokenizer.decode([4, byte(0xf0), byte(0x9f), 13, byte(0xff)]), "a\ufffd\ufffdc\ufffd");
  assert.throws(() => tokenizer.decode([5000]), RangeError);
  assert.throws(() => tokenizer.decode([-1]), RangeError);
});

t("long runs take time in proportion, not its square", () => {
  const tokenizer = bpe(PIECES);
  const ids = tokenizer.encode("a".repeat(200_000));
  assert.is(ids.length, 100_001); // ▁a, then pairs, then one left over.
});

t("models that are not supported are refused by name", async () => {
  const read = (options: ModelOptions, pieces = PIECES) =>
    refusal(() => parseSentencePieceModel("x/tokenizer.model", sentencePieceBytes(pieces, options)));
  assert.match(
    await read({ kind: 1 }),
    /^x\/tokenizer\.model: a SentencePiece unigram model is not supported/,
  );
  assert.match(await read({ kind: 4 }), /character model/);
  assert.match(
    await read({ charsmap: Uint8Array.of(1, 2, 3) }),
    /normalisation nmt_nfkc with a character table/,
  );
  assert.match(await read({ suffixWhitespace: true }), /treat_whitespace_as_suffix/);
  assert.match(await read({ byteFallback: true }), /byte fallback needs 256 byte pieces, found 0/);
  assert.match(await read({}, PIECES.slice(1)), /no unknown piece/);
  assert.match(await read({}, []), /no pieces/);
  const whole = sentencePieceBytes(PIECES);
  for (const length of [1, 2, 10, whole.length - 1]) {
    assert.match(
      await refusal(() => parseSentencePieceModel("m", whole.subarray(0, length))),
      /^m: not a SentencePiece model \(cut off in a (field|number)\)/,
    );
  }
  const text = new TextEncoder().encode("version https://git-lfs.github.com/spec/v1\n");
  assert.match(await refusal(() => parseSentencePieceModel("m", text)), /not a SentencePiece model/);
});

t("a directory with tokenizer.model alone: BOS leads unless the config says otherwise", async () => {
  const model = sentencePieceBytes(PIECES);
  const plain = await loadTokenizer(directory({ "tokenizer.model": model }));
  assert.equal(plain.leading, [1]);
  assert.is(plain.vocabularySize, PIECES.length);
  assert.equal(plain.encode("abc"), [4, 5]);
  assert.is(plain.decode([1, 4, 5, 2]), "abc");
  const config = (json: object) => ({
    "tokenizer.model": model,
    "tokenizer_config.json": JSON.stringify(json),
  });
  assert.equal((await loadTokenizer(directory(config({ add_bos_token: false })))).leading, []);
  const chatglm = await loadTokenizer(directory(config({ tokenizer_class: "ChatGLMTokenizer" })));
  assert.equal(chatglm.leading, [16, 18]);
  assert.is(chatglm.vocabularySize, 20);
  assert.is(chatglm.decode([16, 18, 4]), "a");
  // The directory's config.json tells as well.
  const files = { "tokenizer.model": model, "config.json": '{"model_type": "chatglm"}' };
  assert.equal((await loadTokenizer(directory(files))).leading, [16, 18]);
});

/** A tokenizer.json of the Llama kind over PIECES' normal pieces. */
function tokenizerJson(more: object = {}, vocabulary: Record<string, number> = {}): string {
  const vocab = { ...Object.fromEntries(PIECES.map(([text], id) => [text, id])), ...vocabulary };
  return JSON.stringify({
    added_tokens: [{ id: 1, content: "<s>", special: true, normalized: false }],
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      fuse_unk: true,
      vocab,
      merges: ["▁ a", "b c", "a b", "▁ ▁", "a a"],
    },
    ...more,
  });
}

t("tokenizer.json: ids, leading tokens from the post-processor or the config", async () => {
  const tokenizer = await loadTokenizer(directory({ "tokenizer.json": tokenizerJson() }));
  assert.equal(tokenizer.leading, [1]);
  assert.is(tokenizer.vocabularySize, 15);
  assert.equal(tokenizer.encode("abc a"), [4, 5, 4]);
  assert.equal(tokenizer.encode(""), []);
  assert.is(tokenizer.decode([1, 4, 5, 4]), "abc a");
  assert.is(tokenizer.decode([]), "");
  const withConfig = async (json: string, config: object) =>
    (
      await loadTokenizer(
        directory({ "tokenizer.json": json, "tokenizer_config.json": JSON.stringify(config) }),
      )
    ).leading;
  assert.equal(await withConfig(tokenizerJson(), { add_bos_token: false }), []);
  const bare = tokenizerJson({ post_processor: null });
  assert.equal(await withConfig(bare, {}), []);
  assert.equal(await withConfig(bare, { add_bos_token: true, bos_token: "<s>" }), [1]);
  assert.equal(await withConfig(bare, { add_bos_token: true, bos_token: { content: "<s>" } }), [1]);
  assert.match(
    await refusal(() => withConfig(bare, { add_bos_token: true, bos_token: "<no>" })),
    /no bos_token "<no>"/,
  );
});

t("with both files, the SentencePiece model decides, unless tokenizer.json has other ids", async () => {
  const model = sentencePieceBytes(PIECES);
  // Ids of "c" and "é" swapped, so that it shows which file was used.
  const swapped = tokenizerJson({}, { c: 14, é: 13 });
  const both = await loadTokenizer(directory({ "tokenizer.model": model, "tokenizer.json": swapped }));
  assert.equal(both.encode("c"), [10, 13]);
  const larger = tokenizerJson({}, { c: 14, é: 13, more: 15 });
  const added = await loadTokenizer(directory({ "tokenizer.model": model, "tokenizer.json": larger }));
  assert.equal(added.encode("c"), [10, 14]);
  const foreign = await loadTokenizer(
    directory({ "tokenizer.model": "IQ== 0\n", "tokenizer.json": swapped }),
  );
  assert.equal(foreign.encode("c"), [10, 14]);
});

t("bad tokenizer directories", async () => {
  assert.match(
    await refusal(() => loadTokenizer(folder)),
    /no tokenizer\.json, tokenizer\.model or vocab\.json with merges\.txt/,
  );
  const load = (files: Record<string, string>) => refusal(() => loadTokenizer(directory(files)));
  assert.match(await load({ "tokenizer.json": "{" }), /tokenizer\.json: not valid JSON/);
  assert.match(
    await load({ "tokenizer.json": "{}" }),
    /tokenizer\.json: not a tokenizer this program can read/,
  );
  assert.match(
    await load({ "tokenizer.json": tokenizerJson(), "tokenizer_config.json": "[]" }),
    /tokenizer_config\.json: expected a JSON object/,
  );
  const unigram = JSON.stringify({ model: { type: "Unigram", vocab: [["a", -1]] } });
  assert.match(
    await load({ "tokenizer.json": unigram }),
    /a Unigram tokenizer is not supported, expected BPE/,
  );
  const cut = (pre_tokenizer: object) => load({ "tokenizer.json": tokenizerJson({ pre_tokenizer }) });
  const words = { type: "Split", pattern: { String: " " }, behavior: "MergedWithPrevious", invert: false };
  assert.match(await cut(words), /pre_tokenizer Split with behavior "MergedWithPrevious" is not supported/);
  const nested = { type: "Sequence", pretokenizers: [{ type: "Metaspace", replacement: "▁" }] };
  assert.match(await cut(nested), /pre_tokenizer Metaspace with split is not supported/);
  assert.match(await load({ "tokenizer.model": "" }), /tokenizer\.model: not a SentencePiece model/);
  const tokenizer = await loadTokenizer(directory({ "tokenizer.json": tokenizerJson() }));
  checkVocabulary(tokenizer, 15, "x");
  assert.match(
    await refusal(() => checkVocabulary(tokenizer, 14, "x")),
    /x: the tokenizer has 15 ids, .* is 14/,
  );
});

/** See test/reference/tokenizer.py. */
interface Reference {
  files: Record<string, string>;
  strings: { text: string; ids: number[] }[];
  first?: { text: string; ids: number[] }[];
  lists?: { list: string; count: number; tokens: number; sha256: string }[];
}

function referenceOf(name: string): Reference {
  const path = repositoryPath(`test/reference/dumps/tokenizer-${name}.json`);
  return JSON.parse(readFileSync(path, "utf8")) as Reference;
}

/** A column of a RecBole .item file, each value exactly as it stands. */
function itemColumn(path: string, column: number): string[] {
  const lines = readFileSync(path, "utf8").split("\n");
  if (lines.at(-1) === "") lines.pop();
  return lines.slice(1).map((line) => line.split("\t")[column]);
}

/** A field of gzipped JSON lines; every string of a field that is a list. */
function metadataField(path: string, field: string): string[] {
  const lines = gunzipSync(readFileSync(path)).toString("utf8").split("\n");
  return lines.filter((line) => line !== "").flatMap((line) => JSON.parse(line)[field]);
}

const SCIENTIFIC = "data/amazon-scientific/amazon-scientific.item";
const MOVIES = "data/ml-100k/ml-100k.item";
const GIFTS = "data/amazon-gift-cards-raw/meta_Gift_Cards.json.gz";
const LISTS: Record<string, [file: string, read: (path: string) => string[]]> = {
  "amazon-scientific title": [SCIENTIFIC, (path) => itemColumn(path, 1)],
  "amazon-scientific brand": [SCIENTIFIC, (path) => itemColumn(path, 2)],
  "amazon-scientific categories": [SCIENTIFIC, (path) => itemColumn(path, 3)],
  "ml-100k movie_title": [MOVIES, (path) => itemColumn(path, 1)],
  "ml-100k class": [MOVIES, (path) => itemColumn(path, 3)],
  "amazon-gift-cards-raw title": [GIFTS, (path) => metadataField(path, "title")],
  "amazon-gift-cards-raw brand": [GIFTS, (path) => metadataField(path, "brand")],
  "amazon-gift-cards-raw category": [GIFTS, (path) => metadataField(path, "category")],
};

function digest(encoded: number[][]): string {
  return createHash("sha256")
    .update(encoded.map((ids) => `${ids.join(" ")}\n`).join(""))
    .digest("hex");
}

/** The ids of every text of a reference; lone surrogates give what U+FFFD gives, whatever stands beside them. */
function compareIds(tokenizer: Tokenizer, reference: Reference): void {
  assert.ok(reference.strings.length > 90);
  for (const { text, ids } of [...reference.strings, ...(reference.first ?? [])]) {
    assert.equal(tokenizer.encode(text), ids, JSON.stringify(text));
  }
  for (const text of [
    "\ud83d",
    "a\ud83d",
    "\ude00b",
    " \ude00\ud83d ",
    "x\ud83d\ud83d\ude00y",
    "\ufffd\udfff 1",
  ]) {
    const whole = text.replace(/\p{Surrogate}/gu, "\ufffd");
    assert.is.not(whole, text);
    assert.equal(tokenizer.encode(text), tokenizer.encode(whole), JSON.stringify(text));
  }
}

const CHATGLM2 = [64790, 64792]; // [gMASK] sop
for (const [name, where, files, leading] of [
  ["stories260K", "weights/stories260K", ["tokenizer.model"], [1]],
  ["llama2", "weights/tokenizers/llama2", ["tokenizer.model", "tokenizer_config.json"], [1]],
  ["chatglm2", "weights/tokenizers/chatglm2", ["tokenizer.model", "tokenizer_config.json"], CHATGLM2],
  ["gpt2", "weights/tokenizers/gpt2", ["vocab.json", "merges.txt"], []],
  ["gpt2", "weights/tokenizers/gpt2", ["tokenizer.json"], []],
] as const) {
  const path = sharedPath(where);
  if (!path) continue;
  t(`${name} by ${files[0]}: the ids of its original on hard strings and on three datasets`, async () => {
    const copy = directory({});
    for (const file of files) copyFileSync(join(path, file), join(copy, file));
    const tokenizer = await loadTokenizer(copy);
    const reference = referenceOf(name);
    assert.equal(tokenizer.leading, leading);
    compareIds(tokenizer, reference);
    assert.is(reference.lists?.length, 8);
    for (const { list, count, tokens, sha256 } of reference.lists!) {
      const [file, read] = LISTS[list];
      const data = sharedPath(file);
      if (!data) continue;
      const encoded = read(data).map((text) => tokenizer.encode(text));
      assert.equal([encoded.length, encoded.flat().length], [count, tokens], list);
      assert.is(digest(encoded), sha256, list);
    }
  });
}

/** tokenizer.json of Llama 3 and Qwen 2 as published, but for the vocabulary: that of the embedded backbone. */
const SPLIT = (regex: string) => ({
  type: "Sequence",
  pretokenizers: [
    { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false },
    { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
  ],
});
const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true };
const LLAMA3 = {
  added_tokens: [
    { id: 900, content: "<|begin_of_text|>", special: true },
    { id: 901, content: "<|end_of_text|>", special: true },
  ],
  normalizer: null,
  pre_tokenizer: SPLIT(
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  ),
  post_processor: {
    type: "Sequence",
    processors: [
      BYTE_LEVEL,
      {
        type: "TemplateProcessing",
        single: [
          { SpecialToken: { id: "<|begin_of_text|>", type_id: 0 } },
          { Sequence: { id: "A", type_id: 0 } },
        ],
        pair: [],
        special_tokens: {
          "<|begin_of_text|>": { id: "<|begin_of_text|>", ids: [900], tokens: ["<|begin_of_text|>"] },
        },
      },
    ],
  },
  decoder: BYTE_LEVEL,
};
const QWEN2 = {
  added_tokens: [
    { id: 900, content: "<|endoftext|>", special: true },
    { id: 901, content: "<|im_end|>", special: true },
  ],
  normalizer: { type: "NFC" },
  pre_tokenizer: SPLIT(
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  ),
  post_processor: BYTE_LEVEL,
  decoder: BYTE_LEVEL,
};
const QWEN2_CONFIG = { add_bos_token: false, bos_token: null, tokenizer_class: "Qwen2Tokenizer" };

for (const [family, change, config, leading] of [
  ["gpt2", {}, {}, [1]],
  ["llama3", LLAMA3, { bos_token: "<|begin_of_text|>", tokenizer_class: "PreTrainedTokenizerFast" }, [900]],
  ["qwen2", QWEN2, QWEN2_CONFIG, []],
] as const) {
  t(`the embedded vocabulary with the words of ${family}: the ids of an independent encoder`, async () => {
    const file = repositoryPath("weights/shop-llama/tokenizer.json");
    const reference = referenceOf(`embedded-${family}`);
    const text = readFileSync(file, "utf8");
    assert.is(
      createHash("sha256").update(text).digest("hex"),
      reference.files["tokenizer.json"],
      "tokenizer.json has changed: run test/reference/tokenizer.py --embedded again",
    );
    const embedded = JSON.parse(text);
    const model = { ...embedded.model, ignore_merges: family === "llama3" };
    const json = JSON.stringify({ ...embedded, model, ...change });
    const tokenizer = await loadTokenizer(
      directory({ "tokenizer.json": json, "tokenizer_config.json": JSON.stringify(config) }),
    );
    compareIds(tokenizer, reference);
    assert.equal(tokenizer.leading, leading);
    assert.is(tokenizer.vocabularySize, family === "gpt2" ? Object.keys(model.vocab).length : 902);
    for (const { text } of reference.strings) {
      const expected = family === "qwen2" ? text.normalize("NFC") : text;
      assert.is(tokenizer.decode([...leading, ...tokenizer.encode(text)]), expected);
    }
  });
}

t("vocab.json and merges.txt: GPT-2's words, no leading token, special tokens give no text", async () => {
  const embedded = JSON.parse(readFileSync(repositoryPath("weights/shop-llama/tokenizer.json"), "utf8"));
  const { vocab, merges } = embedded.model;
  const end = Object.keys(vocab).length;
  const files = (config: object = {}, change: { vocab?: object; merges?: string } = {}) => ({
    "vocab.json": JSON.stringify({ ...vocab, "<|endoftext|>": end, ...change.vocab }),
    "merges.txt": change.merges ?? `#version: 0.2\n${merges.join("\n")}\n`,
    "tokenizer_config.json": JSON.stringify(config),
  });
  const tokenizer = await loadTokenizer(directory(files()));
  compareIds(tokenizer, referenceOf("embedded-gpt2"));
  assert.equal(tokenizer.leading, []);
  assert.is(tokenizer.vocabularySize, end + 1);
  assert.is(tokenizer.decode([...tokenizer.encode("a <|endoftext|>"), end]), "a <|endoftext|>");
  const windows = await loadTokenizer(
    directory(files({}, { merges: `#version: 0.2\r\n${merges.join("\r\n")}` })),
  );
  compareIds(windows, referenceOf("embedded-gpt2"));
  const withBos = { add_bos_token: true, bos_token: "<|endoftext|>", tokenizer_class: "GPT2Tokenizer" };
  assert.equal((await loadTokenizer(directory(files(withBos)))).leading, [end]);

  // A space in front, once, unless there is one: not before every word.
  const prefixed = await loadTokenizer(directory(files({ add_prefix_space: true })));
  for (const text of ["a b", " a b", "'s it", "\u0085x", "", " "]) {
    const spaced = text === "" || text.startsWith(" ") ? text : ` ${text}`;
    assert.equal(prefixed.encode(text), tokenizer.encode(spaced), JSON.stringify(text));
  }

  const bad = (config: object, change: { vocab?: object; merges?: string }) =>
    refusal(() => loadTokenizer(directory(files(config, change))));
  assert.match(
    await bad({ tokenizer_class: "Qwen2Tokenizer" }, {}),
    /read as GPT-2's, and tokenizer_config\.json says "Qwen2Tokenizer"; download the model's tokenizer\.json/,
  );
  assert.match(
    await bad({}, { vocab: { x: 5 } }),
    /vocab\.json: token "x": expected an id of its own, found 5/,
  );
  assert.match(await bad({}, { vocab: { x: "5" } }), /found "5"/);
  assert.match(
    await bad({}, { merges: "#version: 0.2\na b c\n" }),
    /merges\.txt, line 2: expected two tokens/,
  );
  assert.match(await bad({}, { merges: "a b\nq q\n" }), /merges\.txt, line [12]: .* is not in vocab\.json/);
  assert.match(await bad({}, { merges: "#version: 0.2\n" }), /merges\.txt: no merges/);
  const few = { ...files(), "vocab.json": JSON.stringify({ a: 0 }) };
  assert.match(await refusal(() => loadTokenizer(directory(few))), /vocab\.json: no token for byte 0/);
});

t(
  "words are cut where the original's expressions cut them: U+0085 is a space, U+FEFF none, a long s is an s",
  async () => {
    const embedded = JSON.parse(readFileSync(repositoryPath("weights/shop-llama/tokenizer.json"), "utf8"));
    const vocab: Record<string, number> = {};
    for (const [token, id] of Object.entries<number>(embedded.model.vocab)) if (id < 259) vocab[token] = id;
    // Pairs that only meet inside a word: "!" and the first byte of U+FEFF or U+0085, the last byte of a long s and "a".
    const merges = ["! ï", "! Â", "¿ a"];
    for (const [i, pair] of merges.entries()) vocab[pair.replace(" ", "")] = 300 + i;
    const load = (change: object) =>
      loadTokenizer(
        directory({
          "tokenizer.json": JSON.stringify({ ...embedded, ...change, model: { type: "BPE", vocab, merges } }),
        }),
      );
    const ids = (tokenizer: Tokenizer, text: string) => tokenizer.encode(text).filter((id) => id >= 300);
    const nested = { type: "Sequence", pretokenizers: [embedded.pre_tokenizer] };
    for (const tokenizer of [await load({}), await load({ pre_tokenizer: nested }), await load(LLAMA3)]) {
      assert.equal(ids(tokenizer, "!\ufeff"), [300]);
      assert.equal(ids(tokenizer, "!\u0085"), []);
    }
    assert.equal(ids(await load(LLAMA3), "'\u017fa"), [], "the word ends behind the long s");
    assert.equal(ids(await load({}), "'\u017fa"), [302]);
  },
);

t("text that looks like a special token is text", async () => {
  const tokenizer = await loadTokenizer(directory({ "tokenizer.json": tokenizerJson() }));
  assert.not.ok(tokenizer.encode("a<s>b").includes(1));
  assert.is(tokenizer.decode([1, ...tokenizer.encode("ab")]), "ab");
});

t("a lone surrogate is U+FFFD to tokenizer.json as well", async () => {
  const json = tokenizerJson({}, { "\ufffd": 15 });
  const tokenizer = await loadTokenizer(directory({ "tokenizer.json": json }));
  assert.equal(tokenizer.encode("b\ud83d").slice(-1), [15]);
});

const llama2 = sharedPath("weights/tokenizers/llama2");
const items = sharedPath(SCIENTIFIC);
if (llama2 && items) {
  t("llama2: tokenizer.json gives the ids of tokenizer.model, but for no-break spaces", async () => {
    const copy = directory({});
    copyFileSync(join(llama2, "tokenizer.json"), join(copy, "tokenizer.json"));
    const json: Tokenizer = await loadTokenizer(copy);
    const model = await loadTokenizer(llama2);
    assert.equal(json.leading, model.leading);
    assert.is(json.vocabularySize, 32000);
    const texts = [
      ...itemColumn(items, 1),
      "a  b",
      "tab\tnew\nline",
      "日本語 😀 é",
      "",
      " ",
      "0123",
      "▁",
      "</s>",
    ];
    const different = texts.filter((text) => json.encode(text).join() !== model.encode(text).join());
    // This copy of tokenizer.json lost U+00A0: its four pieces with it hold a plain space instead.
    assert.equal(
      different,
      texts.filter((text) => text.includes("\u00a0")),
    );
    for (const text of texts) assert.is(json.decode(json.encode(text)), model.decode(model.encode(text)));
    console.log(`${different.length} of ${texts.length} titles differ (no-break spaces)`);

    // As later files of this kind (Mistral's) say the same.
    const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false };
    const content = JSON.parse(readFileSync(join(llama2, "tokenizer.json"), "utf8"));
    const later = { ...content, normalizer: null, pre_tokenizer: metaspace };
    const tokenizer = await loadTokenizer(directory({ "tokenizer.json": JSON.stringify(later) }));
    for (const text of itemColumn(items, 1).slice(0, 500))
      assert.equal(tokenizer.encode(text), json.encode(text));
  });
}

t.run();
