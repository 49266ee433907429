"""Reference ids of tokenizers, by their original implementations.

    python3 tokenizer.py --data DIR --sentencepiece NAME=tokenizer.model ... --gpt2 NAME=DIR ... --embedded tokenizer.json

Writes dumps/tokenizer-NAME.json: ids of hard strings, and digests of the ids of every title, brand and category of three
datasets under --data, without special tokens. SentencePiece models by SentencePieceProcessor.encode; byte-level models
(vocab.json and merges.txt, or the same two out of the embedded tokenizer.json) by the encoder below, which follows the
one that OpenAI published with GPT-2 (src/encoder.py). The embedded vocabulary is encoded three times, with the words of
GPT-2, of Llama 3 and of Qwen 2: those have vocabularies too large to ship.
"""

import argparse
import functools
import gzip
import hashlib
import json
import os
import unicodedata

import regex
import sentencepiece

HERE = os.path.dirname(os.path.abspath(__file__))

HARD_STRINGS = [
    "",
    " ",
    "  ",
    "   \t  ",
    "a",
    " a",
    "a ",
    "  a  b  ",
    "Hello world",
    "Hello  world",
    "hello\nworld",
    "\n",
    "\n\n\n",
    "\t",
    "\r\n",
    "a\tb\n c",
    "\u0000",
    "a\u0000b",
    "\u0001\u0002\u001f\u007f",
    "\u0085\u00a0\u2003\u3000",
    "x\u00a0y",
    "\u200b\u200d\ufeff",
    "\ufffd",
    "0",
    "0123456789",
    "3.14159",
    "1,000,000",
    "12 345",
    "$19.99",
    "2019-12-31T23:59:59Z",
    "\u00bd \u00b2 \u2460",
    "caf\u00e9",
    "cafe\u0301",
    "\u00c5\u212bA\u030a",
    "\ufb01 ligature",
    "\u1e9e \u00df SS",
    "nai\u0308ve \u2014 r\u00e9sum\u00e9",
    "Zalgo: h\u0301\u0302\u0303\u0304e",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8",
    "\ud55c\uad6d\uc5b4",
    "\u1112\u1161\u11ab",
    "\u4dae\u9fff",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f600",
    "\U0001f600\U0001f601 smile",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f44d\U0001f3fd",
    "\U0001f1fa\U0001f1f8",
    "\u2764\ufe0f",
    "\U0001d54f\U00010348\U0010ffff",
    "\u2581",
    "\u2581x",
    "a\u2581b",
    " \u2581 ",
    "\u2122\u00ae\u00a9",
    "\u201cquoted\u201d \u2018single\u2019 \u2026",
    "5\u2033 x 3\u2032 \u00b1 0.1 \u00b5m",
    "a" * 67,
    "ab" * 40,
    " " * 33,
    "x" + " " * 17 + "y",
    "=" * 21,
    "!?#%&*()[]{}<>|\\/~^`'\"",
    "https://example.com/a_b?c=d&e=%20#f",
    "def f(x):\n    return x ** 2\n",
    "IIIIIIIIllllllll",
    "thethethe The THE",
    "supercalifragilisticexpialidocious",
    "antidisestablishmentarianism",
    "<0x41>",
    "&amp; &quot;",
    "...",
    "..  ..",
    "x\u0085\u0085y \u0085",
    "x\ufeff\ufeffy \ufeff.",
    "x\u180e\u2028\u2029y",
    "a\u001c\u001d\u001e\u001f b",
    "a \n b\n\n  c\r\n\r\n d \n",
    "line\n   indented\n\ttab \n",
    "I'm I'M we'LL we'Ll 'S' 'tis don't DON'T 'd",
    "'\u017f'\u017fa x'\u017f",
    "\u2019s \u2019t",
    "1234567 12345678 \uff11\uff12\uff13\uff14 \u0664\u0665\u0666\u0667 \u2167\u00be",
    "a1b22c333d4444",
    "\u1100\u1161 \u0041\u030a \u0344 \u2126 \uf900",
    "\u0915\u094d\u0937\u093f",
    "\U0001f9d1\U0001f3ff\u200d\U0001f91d\u200d\U0001f9d1\U0001f3fb",
    "\U0001f3f3\ufe0f\u200d\U0001f308!",
    "\U0001d54f \U00020000\U0001f468",
    "\ufffd a\ufffdb \ufffd\ufffd",
    "<|endoftext|> <|begin_of_text|> <|im_end|>",
    "<s> </s> <unk> [gMASK] sop eop [MASK]",
    "philosophical sop",
    "\u00a0\u00a0x\u00a0 y",
    "tab\t\t\tx  \t y",
    "You are an intelligent recommendation assistant.\n"
    " >> 1. Kaytee Aspen Bedding Bag (brand: Kaytee, category: Kaytee)",
]


# How each family cuts a text into words, each of which becomes byte pairs on its own.
WORDS = {
    "gpt2": r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
}


class ByteLevel:
    """Byte pairs over UTF-8: of the pairs of a word, the one that comes first in the list of merges is merged, wherever
    it stands in the word; and so on until none is in the list."""

    def __init__(self, vocab, merges, family):
        self.vocab = vocab
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        self.words = regex.compile(WORDS[family])
        self.family = family
        printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        self.characters = {byte: chr(byte) for byte in printable}
        self.characters.update({byte: chr(256 + i) for i, byte in enumerate(others)})
        self.pieces = functools.lru_cache(None)(self._pieces)

    def encode(self, text):
        if self.family == "qwen2":
            text = unicodedata.normalize("NFC", text)
        ids = []
        for word in self.words.findall(text):
            word = "".join(self.characters[byte] for byte in word.encode())
            if self.family == "llama3" and word in self.vocab:
                ids.append(self.vocab[word])  # ignore_merges
            else:
                ids.extend(self.vocab[piece] for piece in self.pieces(word))
        return ids

    def _pieces(self, word):
        parts = list(word)
        while len(parts) > 1:
            best = min(zip(parts, parts[1:]), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            merged, i = [], 0
            while i < len(parts):
                if tuple(parts[i : i + 2]) == best:
                    merged.append(best[0] + best[1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged
        return parts


def read_gpt2(folder):
    with open(os.path.join(folder, "vocab.json"), encoding="utf-8") as file:
        vocab = json.load(file)
    with open(os.path.join(folder, "merges.txt"), encoding="utf-8") as file:
        merges = [line.split() for line in file.read().split("\n")[1:-1]]
    return vocab, merges


def read_tokenizer_json(path):
    with open(path, encoding="utf-8") as file:
        model = json.load(file)["model"]
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return model["vocab"], merges


def item_column(path, column):
    """A column of a RecBole .item file, each value exactly as it stands (lines end at "\\n" only)."""
    with open(path, encoding="utf-8", newline="\n") as file:
        lines = file.read().split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.split("\t")[column] for line in lines[1:]]


def metadata_field(path, field):
    """A field of JSON lines; every string of a field that is a list."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        values = [json.loads(line)[field] for line in file.read().split("\n") if line]
    return [text for value in values for text in (value if isinstance(value, list) else [value])]


def lists_of(data):
    scientific = os.path.join(data, "amazon-scientific", "amazon-scientific.item")
    movies = os.path.join(data, "ml-100k", "ml-100k.item")
    gifts = os.path.join(data, "amazon-gift-cards-raw", "meta_Gift_Cards.json.gz")
    for name, path, read, columns in (
        ("amazon-scientific", scientific, item_column, {"title": 1, "brand": 2, "categories": 3}),
        ("ml-100k", movies, item_column, {"movie_title": 1, "class": 3}),
        ("amazon-gift-cards-raw", gifts, metadata_field, {key: key for key in ("title", "brand", "category")}),
    ):
        for column, key in columns.items():
            yield f"{name} {column}", read(path, key)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def reference(name, files, encode, lists):
    result = {
        "tokenizer": name,
        "files": {os.path.basename(path): digest(path) for path in files},
        "doc": "Ids without special tokens. How the digests are computed: test/reference/README.md.",
        "strings": [{"text": text, "ids": encode(text)} for text in HARD_STRINGS],
    }
    if lists:
        result["first"] = [{"text": text, "ids": encode(text)} for text in lists[0][1][:20]]
        result["lists"] = []
    for list_name, texts in lists:
        encoded = [encode(text) for text in texts]
        lines = "".join(" ".join(map(str, ids)) + "\n" for ids in encoded)
        result["lists"].append(
            {
                "list": list_name,
                "count": len(texts),
                "tokens": sum(len(ids) for ids in encoded),
                "sha256": hashlib.sha256(lines.encode()).hexdigest(),
            }
        )
    return result


def to_json(value, indent=""):
    """JSON with one line per string, so that a difference can be read."""
    if isinstance(value, dict) and "ids" not in value and "list" not in value:
        body = ",\n".join(f"{indent}  {json.dumps(k)}: {to_json(v, indent + '  ')}" for k, v in value.items())
        return f"{{\n{body}\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        body = ",\n".join(f"{indent}  {json.dumps(v)}" for v in value)
        return f"[\n{body}\n{indent}]"
    return json.dumps(value)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for kind, what in (("sentencepiece", "FILE"), ("gpt2", "DIR")):
        parser.add_argument(f"--{kind}", action="append", default=[], metavar=f"NAME={what}")
    parser.add_argument("--embedded", metavar="FILE", help="weights/shop-llama/tokenizer.json")
    parser.add_argument("--data", metavar="DIR", help="where the datasets lie, for all but the embedded tokenizer")
    arguments = parser.parse_args()
    lists = list(lists_of(arguments.data)) if arguments.data else []
    results = []
    for name, path in (pair.split("=", 1) for pair in arguments.sentencepiece):
        processor = sentencepiece.SentencePieceProcessor(model_file=path)
        results.append(reference(name, [path], processor.encode, lists))
    for name, folder in (pair.split("=", 1) for pair in arguments.gpt2):
        files = [os.path.join(folder, file) for file in ("vocab.json", "merges.txt")]
        results.append(reference(name, files, ByteLevel(*read_gpt2(folder), "gpt2").encode, lists))
    if arguments.embedded:
        for family in WORDS:
            encode = ByteLevel(*read_tokenizer_json(arguments.embedded), family).encode
            results.append(reference(f"embedded-{family}", [arguments.embedded], encode, []))
    for result in results:
        path = os.path.join(HERE, "dumps", f"tokenizer-{result['tokenizer']}.json")
        with open(path, "w", encoding="utf-8") as file:
            file.write(to_json(result) + "\n")
        print(path)


if __name__ == "__main__":
    main()
