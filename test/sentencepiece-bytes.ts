/** Writes SentencePiece models (protocol buffers) for tests, so that they need no file and no SentencePiece. */

/** text, score, type (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte). */
export type PieceRow = [text: string, score: number, type?: number];

export interface ModelOptions {
  /** 1 unigram, 2 BPE, 3 word, 4 character. */
  kind?: number;
  byteFallback?: boolean;
  addDummyPrefix?: boolean;
  removeExtraWhitespaces?: boolean;
  charsmap?: Uint8Array;
  suffixWhitespace?: boolean;
}

/** A serialised ModelProto. */
export function sentencePieceBytes(pieces: readonly PieceRow[], options: ModelOptions = {}): Uint8Array {
  const bytes: number[] = [];
  for (const [text, score, type = 1] of pieces) {
    const float = [...new Uint8Array(Float32Array.of(score).buffer)];
    bytes.push(...nested(1, [...string(1, text), ...varint(2 * 8 + 5), ...float, ...whole(3, type)]));
  }
  const flag = (value: boolean) => (value ? 1 : 0);
  bytes.push(
    ...nested(2, [
      ...whole(3, options.kind ?? 2),
      ...whole(24, flag(options.suffixWhitespace ?? false)),
      ...whole(35, flag(options.byteFallback ?? false)),
    ]),
    ...nested(3, [
      ...string(1, options.charsmap ? "nmt_nfkc" : "identity"),
      ...nested(2, [...(options.charsmap ?? [])]),
      ...whole(3, flag(options.addDummyPrefix ?? true)),
      ...whole(4, flag(options.removeExtraWhitespaces ?? false)),
    ]),
  );
  return Uint8Array.from(bytes);
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) + 128, ...varint(Math.floor(value / 128))];
}

function whole(field: number, value: number): number[] {
  return [...varint(field * 8), ...varint(value)];
}

function nested(field: number, bytes: number[]): number[] {
  return [...varint(field * 8 + 2), ...varint(bytes.length), ...bytes];
}

function string(field: number, text: string): number[] {
  return nested(field, [...new TextEncoder().encode(text)]);
}
