import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
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
  assert.match(await refusal(() => loadTokenizer(folder)), /neither tokenizer.json nor tokenizer.model/);
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
  assert.match(await load({ "tokenizer.model": "" }), /tokenizer\.model: not a SentencePiece model/);
  const tokenizer = await loadTokenizer(directory({ "tokenizer.json": tokenizerJson() }));
  checkVocabulary(tokenizer, 15, "x");
  assert.match(
    await refusal(() => checkVocabulary(tokenizer, 14, "x")),
    /x: the tokenizer has 15 ids, .* is 14/,
  );
});

interface Reference {
  strings: { text: string; ids: number[] }[];
  titles: { count: number; tokens: number; sha256: string; first: { text: string; ids: number[] }[] };
}

/** Second field of every line after the first, exactly as it stands (see test/reference/tokenizer.py). */
function itemTitles(path: string): string[] {
  const lines = readFileSync(path, "utf8").split("\n");
  if (lines.at(-1) === "") lines.pop();
  return lines.slice(1).map((line) => line.split("\t")[1]);
}

function digest(encoded: number[][]): string {
  return createHash("sha256")
    .update(encoded.map((ids) => `${ids.join(" ")}\n`).join(""))
    .digest("hex");
}

for (const [name, where] of [
  ["stories260K", "weights/stories260K"],
  ["llama2", "weights/tokenizers/llama2"],
]) {
  const path = sharedPath(where);
  if (!path) continue;
  t(
    `${name}: the ids of Python's SentencePiece on hard strings and on every title of amazon-scientific`,
    async () => {
      const dump = repositoryPath(`test/reference/dumps/tokenizer-${name}.json`);
      const reference = JSON.parse(readFileSync(dump, "utf8")) as Reference;
      const tokenizer = await loadTokenizer(path);
      for (const { text, ids } of [...reference.strings, ...reference.titles.first]) {
        assert.equal(tokenizer.encode(text), ids, JSON.stringify(text));
      }
      assert.ok(reference.strings.length > 50);
      const items = sharedPath("data/amazon-scientific/amazon-scientific.item");
      if (!items) return;
      const titles = itemTitles(items);
      const encoded = titles.map((title) => tokenizer.encode(title));
      assert.is(titles.length, reference.titles.count);
      assert.is(encoded.flat().length, reference.titles.tokens);
      assert.is(digest(encoded), reference.titles.sha256);
    },
  );
}

const llama2 = sharedPath("weights/tokenizers/llama2");
const items = sharedPath("data/amazon-scientific/amazon-scientific.item");
if (llama2 && items) {
  t(
    "llama2: tokenizer.json gives the ids of tokenizer.model, but for no-break spaces and the names of special tokens",
    async () => {
      const copy = directory({});
      copyFileSync(join(llama2, "tokenizer.json"), join(copy, "tokenizer.json"));
      const json: Tokenizer = await loadTokenizer(copy);
      const model = await loadTokenizer(llama2);
      assert.equal(json.leading, model.leading);
      assert.is(json.vocabularySize, 32000);
      const texts = [...itemTitles(items), "a  b", "tab\tnew\nline", "日本語 😀 é", "", " ", "0123", "▁"];
      const different = texts.filter((text) => json.encode(text).join() !== model.encode(text).join());
      // This copy of tokenizer.json lost U+00A0: its four pieces with it hold a plain space instead.
      assert.equal(
        different,
        texts.filter((text) => text.includes("\u00a0")),
      );
      for (const text of texts) assert.is(json.decode(json.encode(text)), model.decode(model.encode(text)));
      console.log(`${different.length} of ${texts.length} titles differ (no-break spaces)`);
    },
  );
}

t.run();
