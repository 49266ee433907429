"""Reference ids of SentencePiece tokenizers: python3 tokenizer.py --tokenizer NAME=tokenizer.model ... --titles FILE.

Writes dumps/tokenizer-NAME.json: ids of hard strings, and of the titles of a RecBole .item file, as
SentencePieceProcessor.encode gives them (no BOS, no EOS). The titles' text is not shipped beyond the first twenty:
`sha256` is over the UTF-8 (here ASCII) bytes of one line a title, in file order: its ids in decimal, joined by single
spaces, then "\\n"; a title without ids is an empty line. A title is the second tab-separated field of every line after
the first, exactly as it stands in the file (lines end at "\\n" only; nothing is trimmed or decoded).
"""

import argparse
import hashlib
import json
import os

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
    "You are an intelligent recommendation assistant.\n"
    " >> 1. Kaytee Aspen Bedding Bag (brand: Kaytee, category: Kaytee)",
]


def titles_of(path):
    with open(path, encoding="utf-8", newline="\n") as file:
        lines = file.read().split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.split("\t")[1] for line in lines[1:]]


def reference(name, model, titles_path):
    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    titles = titles_of(titles_path)
    encoded = [processor.encode(title) for title in titles]
    digest = hashlib.sha256("".join(" ".join(map(str, ids)) + "\n" for ids in encoded).encode())
    with open(model, "rb") as file:
        model_digest = hashlib.sha256(file.read()).hexdigest()
    return {
        "tokenizer": name,
        "tokenizer_model_sha256": model_digest,
        "doc": "Ids by SentencePiece, without BOS and EOS. How the digest is computed: test/reference/README.md.",
        "strings": [{"text": text, "ids": processor.encode(text)} for text in HARD_STRINGS],
        "titles": {
            "file": os.path.basename(titles_path),
            "count": len(titles),
            "tokens": sum(len(ids) for ids in encoded),
            "sha256": digest.hexdigest(),
            "first": [{"text": text, "ids": ids} for text, ids in zip(titles[:20], encoded)],
        },
    }


def to_json(value, indent=""):
    """JSON with one line per string, so that a difference can be read."""
    if isinstance(value, dict) and "ids" not in value:
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
    parser.add_argument(
        "--tokenizer", action="append", required=True, metavar="NAME=FILE", help="may be repeated"
    )
    parser.add_argument("--titles", required=True, metavar="FILE", help="a RecBole .item file")
    arguments = parser.parse_args()
    for pair in arguments.tokenizer:
        name, model = pair.split("=", 1)
        path = os.path.join(HERE, "dumps", f"tokenizer-{name}.json")
        with open(path, "w", encoding="utf-8") as file:
            file.write(to_json(reference(name, model, arguments.titles)) + "\n")
        print(path)


if __name__ == "__main__":
    main()
