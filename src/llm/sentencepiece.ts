import { PieceType, type SentencePieceModel } from "./sentencepiece-model.ts";

/** U+2581, which stands for a space inside pieces. */
const SPACE_MARK = "\u2581";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * SentencePiece BPE, id for id as the C++ library: spaces become U+2581 and one is put in front; starting from single
 * characters, the adjacent pair whose joined piece has the highest score is merged (ties: the leftmost), until no
 * joined pair is a piece; characters without a piece become their UTF-8 bytes.
 */
export class SentencePieceBpe {
  readonly model: SentencePieceModel;
  /** Pieces that merges may form: normal, user-defined and unused ones. */
  readonly #ids = new Map<string, number>();
  readonly #byteIds: number[] = [];
  readonly #byteOf = new Map<number, number>();
  readonly #scores: Float32Array;
  readonly #longest: number;
  /** User-defined symbols, longest first: they are cut out of the text before anything else. */
  readonly #userDefined: readonly string[];

  constructor(model: SentencePieceModel) {
    this.model = model;
    this.#scores = Float32Array.from(model.pieces, ({ score }) => score);
    const userDefined: string[] = [];
    let longest = 0;
    model.pieces.forEach(({ text, type }, id) => {
      if (type === PieceType.byte) {
        const byte = Number.parseInt(text.slice(3, 5), 16);
        this.#byteIds[byte] = id;
        this.#byteOf.set(id, byte);
      } else if (type !== PieceType.control && type !== PieceType.unknown) {
        this.#ids.set(text, id);
        longest = Math.max(longest, text.length);
        if (type === PieceType.userDefined) userDefined.push(text);
      }
    });
    this.#longest = longest;
    this.#userDefined = userDefined.sort((a, b) => b.length - a.length);
  }

  /** Ids of a text, without BOS or EOS. Text that looks like a control piece (`</s>`) is only text. */
  encode(text: string): number[] {
    return this.#merge(this.#split(this.#normalize(text)));
  }

  /**
   * The text of ids. Control ids (BOS, EOS) give nothing; the space that encoding puts in front is taken off; bytes
   * that are not UTF-8 give U+FFFD each.
   *
   * @throws RangeError for an id that is not in the vocabulary (a defect of the caller).
   */
  decode(ids: readonly number[]): string {
    const { pieces, addDummyPrefix, removeExtraWhitespaces, unknownSurface } = this.model;
    let text = "";
    let bytes: number[] = [];
    // The first mark is the dummy prefix. When extra whitespace is removed, all leading marks are.
    let atStart = addDummyPrefix || removeExtraWhitespaces;
    const flush = () => {
      if (bytes.length > 0) text += decodeBytes(bytes);
      bytes = [];
    };
    for (const id of ids) {
      if (!(id in pieces)) throw new RangeError(`token id ${id} is not below ${pieces.length}`);
      const byte = this.#byteOf.get(id);
      if (byte !== undefined) {
        bytes.push(byte);
        continue;
      }
      flush();
      if (text !== "") atStart = false;
      const { text: piece, type } = pieces[id];
      if (type === PieceType.control) continue;
      if (type === PieceType.unknown) {
        text += unknownSurface;
        continue;
      }
      const marked = atStart && piece.startsWith(SPACE_MARK);
      if (marked && !removeExtraWhitespaces) atStart = false;
      text += (marked ? piece.slice(1) : piece).replaceAll(SPACE_MARK, " ");
    }
    flush();
    return text;
  }

  /** The text with whitespace as the model wants it: extra spaces removed or not, one in front, spaces as marks. */
  #normalize(text: string): string {
    const { addDummyPrefix, removeExtraWhitespaces, escapeWhitespaces } = this.model;
    const space = escapeWhitespaces ? SPACE_MARK : " ";
    let parts = this.#split(text);
    if (removeExtraWhitespaces) {
      parts = parts.filter((part, i) => part !== " " || (i > 0 && !parts[i - 1].endsWith(" ")));
    }
    if (parts.length === 0) return "";
    let normal = (addDummyPrefix ? " " : "") + parts.join("");
    if (escapeWhitespaces) normal = normal.replaceAll(" ", SPACE_MARK);
    // As in SentencePiece this also takes marks that the text itself ends with.
    if (removeExtraWhitespaces) while (normal.endsWith(space)) normal = normal.slice(0, -1);
    return normal;
  }

  /** A text as characters and user-defined symbols (at each place the longest). */
  #split(text: string): string[] {
    if (this.#userDefined.length === 0) return Array.from(text, wellFormed);
    const symbols: string[] = [];
    for (let i = 0; i < text.length; ) {
      const defined = this.#userDefined.find((symbol) => text.startsWith(symbol, i));
      const symbol = defined ?? String.fromCodePoint(text.codePointAt(i)!);
      symbols.push(wellFormed(symbol));
      i += symbol.length;
    }
    return symbols;
  }

  /** Score-priority merging with a heap of candidate pairs: O(n log n). */
  #merge(symbols: string[]): number[] {
    const count = symbols.length;
    const next = Int32Array.from(symbols, (_, i) => (i + 1 < count ? i + 1 : -1));
    const previous = Int32Array.from(symbols, (_, i) => i - 1);
    const frozen = this.#userDefined.length > 0 ? new Set(this.#userDefined) : null;
    const heap = new PairHeap();
    /** For pieces marked unused: the two parts that they were merged of, to take them apart again. */
    const partsOf = new Map<string, [string, string]>();
    const pieces = this.model.pieces;

    const propose = (left: number, right: number): void => {
      if (left < 0 || right < 0) return;
      const length = symbols[left].length + symbols[right].length;
      if (length > this.#longest || frozen?.has(symbols[left]) || frozen?.has(symbols[right])) return;
      const joined = symbols[left] + symbols[right];
      const id = this.#ids.get(joined);
      if (id === undefined) return;
      heap.push({ left, right, length, score: this.#scores[id] });
      if (pieces[id].type === PieceType.unused) partsOf.set(joined, [symbols[left], symbols[right]]);
    };

    for (let i = 1; i < count; i++) propose(i - 1, i);
    for (let pair = heap.pop(); pair; pair = heap.pop()) {
      const { left, right, length } = pair;
      // Symbols only ever grow or vanish, so a pair is current exactly when its length still is.
      if (symbols[left] === "" || symbols[right] === "") continue;
      if (symbols[left].length + symbols[right].length !== length) continue;
      symbols[left] += symbols[right];
      symbols[right] = "";
      next[left] = next[right];
      if (next[right] >= 0) previous[next[right]] = left;
      propose(previous[left], left);
      propose(left, next[left]);
    }

    const ids: number[] = [];
    let afterUnknown = false;
    const emit = (symbol: string): void => {
      const id = this.#ids.get(symbol);
      const parts = partsOf.get(symbol);
      if (id !== undefined && pieces[id].type === PieceType.unused && parts) {
        emit(parts[0]);
        emit(parts[1]);
        return;
      }
      if (id !== undefined) ids.push(id);
      else if (this.model.byteFallback)
        for (const byte of encoder.encode(symbol)) ids.push(this.#byteIds[byte]);
      // A run of unknown characters is one unknown token.
      else if (!afterUnknown) ids.push(this.model.unknownId);
      afterUnknown = id === undefined;
    };
    for (let i = count > 0 ? 0 : -1; i >= 0; i = next[i]) emit(symbols[i]);
    return ids;
  }
}

/** Half of a surrogate pair alone is no character: UTF-8 has no form for it. */
function wellFormed(symbol: string): string {
  const code = symbol.charCodeAt(0);
  return symbol.length === 1 && code >= 0xd800 && code <= 0xdfff ? "\ufffd" : symbol;
}

/** UTF-8 to text, with one U+FFFD for every byte that is part of no whole character. */
function decodeBytes(bytes: readonly number[]): string {
  let text = "";
  for (let i = 0; i < bytes.length; ) {
    const lead = bytes[i];
    const length = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    try {
      text += decoder.decode(Uint8Array.from(bytes.slice(i, i + length)));
      i += length;
    } catch {
      text += "\ufffd";
      i++;
    }
  }
  return text;
}

interface Pair {
  left: number;
  right: number;
  length: number;
  score: number;
}

/** Binary heap of pairs: the highest score first, ties by the leftmost. */
class PairHeap {
  readonly #items: Pair[] = [];

  push(pair: Pair): void {
    const items = this.#items;
    let at = items.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(pair, items[parent])) break;
      items[at] = items[parent];
      at = parent;
    }
    items[at] = pair;
  }

  pop(): Pair | undefined {
    const items = this.#items;
    const top = items[0];
    const last = items.pop();
    if (items.length === 0 || last === undefined) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && before(items[child + 1], items[child])) child++;
      if (!before(items[child], last)) break;
      items[at] = items[child];
      at = child;
    }
    items[at] = last;
    return top;
  }
}

function before(a: Pair, b: Pair): boolean {
  return a.score > b.score || (a.score === b.score && a.left < b.left);
}
