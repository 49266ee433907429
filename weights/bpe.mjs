// Trains a byte-level BPE tokenizer (GPT-2's scheme) and writes it as a Hugging Face tokenizer.json. Deterministic:
// ties between pairs go to the pair that comes first alphabetically.

/** GPT-2's table from bytes to printable characters. */
function byteCharacters() {
  const printable = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  const table = [];
  let next = 256;
  for (let b = 0; b < 256; b++) table.push(String.fromCharCode(printable(b) ? b : next++));
  return table;
}

const PRETOKENS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/**
 * The tokenizer of some texts: merges go on until every word that occurs at least `least` times is one token, or the
 * vocabulary has `most` entries. Ids 0, 1 and 2 are <unk>, <s> and </s>.
 */
export function trainTokenizer(texts, { most, least }) {
  const table = byteCharacters();
  const encoder = new TextEncoder();
  const words = new Map();
  for (const text of texts) {
    for (const [word] of text.matchAll(PRETOKENS)) {
      const known = words.get(word);
      if (known) known.count++;
      else words.set(word, { count: 1, pieces: Array.from(encoder.encode(word), (b) => table[b]) });
    }
  }
  const frequent = [...words.values()].filter(({ count }) => count >= least);
  const vocabulary = ["<unk>", "<s>", "</s>", ...table];
  const merges = [];
  while (vocabulary.length < most) {
    const pairs = new Map();
    for (const { count, pieces } of frequent) {
      for (let i = 0; i + 1 < pieces.length; i++) {
        const pair = `${pieces[i]} ${pieces[i + 1]}`;
        pairs.set(pair, (pairs.get(pair) ?? 0) + count);
      }
    }
    let best = null;
    for (const [pair, count] of pairs) {
      if (!best || count > best.count || (count === best.count && pair < best.pair)) best = { pair, count };
    }
    if (!best) break;
    const [left, right] = best.pair.split(" ");
    merges.push(best.pair);
    vocabulary.push(left + right);
    for (const word of frequent) {
      const { pieces } = word;
      for (let i = 0; i + 1 < pieces.length; i++) {
        if (pieces[i] === left && pieces[i + 1] === right) pieces.splice(i, 2, left + right);
      }
    }
  }
  const special = (id, content) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: "<s>", type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { SpecialToken: { id: "<s>", type_id: 0 } },
        { Sequence: { id: "B", type_id: 0 } },
      ],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
      merges,
    },
  };
}
