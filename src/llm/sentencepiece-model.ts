import { UserError } from "../files/user-error.ts";

/** Kinds of piece, numbered as in SentencePiece's ModelProto. */
export const PieceType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export interface Piece {
  readonly text: string;
  readonly score: number;
  readonly type: number;
}

/** What a SentencePiece `tokenizer.model` says, as far as a BPE tokenizer needs it. */
export interface SentencePieceModel {
  readonly pieces: readonly Piece[];
  readonly byteFallback: boolean;
  readonly addDummyPrefix: boolean;
  readonly removeExtraWhitespaces: boolean;
  readonly escapeWhitespaces: boolean;
  /** What an unknown id decodes to. */
  readonly unknownSurface: string;
  readonly unknownId: number;
  /** Begin-of-sequence id, or null when the model has none. */
  readonly bosId: number | null;
}

/**
 * Reads a SentencePiece model (a serialised ModelProto) and checks that it is one this program tokenizes exactly: BPE,
 * without a normalisation table, whitespace as prefix.
 *
 * @param path named in errors only.
 * @throws UserError naming the file: damaged, or a kind of model that is not supported.
 */
export function parseSentencePieceModel(path: string, bytes: Uint8Array): SentencePieceModel {
  const pieces: Piece[] = [];
  let trainer = new Map<number, Value>();
  let normalizer = new Map<number, Value>();
  let denormalizer = new Map<number, Value>();
  try {
    for (const { field, value } of fields(bytes)) {
      if (field === 1) pieces.push(parsePiece(message(value)));
      else if (field === 2) trainer = message(value);
      else if (field === 3) normalizer = message(value);
      else if (field === 5) denormalizer = message(value);
    }
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    throw new UserError(`${path}: not a SentencePiece model (${error.message}); download it again`);
  }
  if (pieces.length === 0)
    throw new UserError(`${path}: not a SentencePiece model (no pieces); download it again`);

  const unsupported = (what: string) =>
    new UserError(`${path}: ${what}; only SentencePiece BPE models without them are supported`);
  const kind = number(trainer, 3, 1);
  if (kind !== 2) {
    const name = { 1: "unigram", 3: "word", 4: "character" }[kind] ?? `type ${kind}`;
    throw new UserError(`${path}: a SentencePiece ${name} model is not supported, expected BPE`);
  }
  if (bytesOf(normalizer, 2).length > 0 || bytesOf(denormalizer, 2).length > 0) {
    throw unsupported(`normalisation ${text(normalizer, 1, "user_defined")} with a character table`);
  }
  if (number(trainer, 24, 0) !== 0) throw unsupported("whitespace as a suffix (treat_whitespace_as_suffix)");

  const byteFallback = number(trainer, 35, 0) !== 0;
  const byteCount = pieces.filter(({ type }) => type === PieceType.byte).length;
  if (byteFallback && byteCount !== 256) {
    throw new UserError(
      `${path}: byte fallback needs 256 byte pieces, found ${byteCount}; download it again`,
    );
  }
  const unknownId = pieces.findIndex(({ type }) => type === PieceType.unknown);
  if (unknownId < 0) throw new UserError(`${path}: the model has no unknown piece; download it again`);
  const bosText = text(trainer, 46, "<s>");
  const bosId = pieces.findIndex(({ text, type }) => text === bosText && type === PieceType.control);
  return {
    pieces,
    byteFallback,
    addDummyPrefix: number(normalizer, 3, 1) !== 0,
    removeExtraWhitespaces: number(normalizer, 4, 1) !== 0,
    escapeWhitespaces: number(normalizer, 5, 1) !== 0,
    unknownSurface: text(trainer, 44, " \u2047 "),
    unknownId,
    bosId: bosId < 0 ? null : bosId,
  };
}

function parsePiece(fields: Map<number, Value>): Piece {
  const score = fields.get(2) ?? 0;
  if (typeof score !== "number") throw new Malformed("a piece's score is not a number");
  return { text: text(fields, 1, ""), score, type: number(fields, 3, PieceType.normal) };
}

// Protocol buffers, as much as a ModelProto uses: a message is a row of (field number, wire type, value).

type Value = number | Uint8Array;

class Malformed extends Error {}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The fields of a serialised message in order. Wire type 5 is read as f32, type 1 as f64 bytes. */
function* fields(bytes: Uint8Array): Generator<{ field: number; value: Value }> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let position = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; position < bytes.length; scale *= 128) {
      const byte = bytes[position++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new Malformed("cut off in a number");
  };
  const take = (length: number): Uint8Array => {
    if (position + length > bytes.length) throw new Malformed("cut off in a field");
    position += length;
    return bytes.subarray(position - length, position);
  };
  while (position < bytes.length) {
    const key = varint();
    const field = Math.floor(key / 8);
    const wire = key % 8;
    if (field === 0) throw new Malformed("field number 0");
    if (wire === 0) yield { field, value: varint() };
    else if (wire === 1) yield { field, value: take(8) };
    else if (wire === 2) yield { field, value: take(varint()) };
    else if (wire === 5) {
      take(4);
      yield { field, value: view.getFloat32(position - 4, true) };
    } else throw new Malformed(`wire type ${wire}`);
  }
}

/** A nested message by field number; of repeated fields the last, as for every singular field. */
function message(value: Value): Map<number, Value> {
  if (typeof value === "number") throw new Malformed("a number where a message belongs");
  return new Map([...fields(value)].map(({ field, value }) => [field, value]));
}

function number(fields: Map<number, Value>, field: number, fallback: number): number {
  const value = fields.get(field) ?? fallback;
  if (typeof value !== "number") throw new Malformed(`field ${field} is not a number`);
  return value;
}

function bytesOf(fields: Map<number, Value>, field: number): Uint8Array {
  const value = fields.get(field) ?? new Uint8Array(0);
  if (typeof value === "number") throw new Malformed(`field ${field} is not a string`);
  return value;
}

function text(fields: Map<number, Value>, field: number, fallback: string): string {
  if (!fields.has(field)) return fallback;
  try {
    return utf8.decode(bytesOf(fields, field));
  } catch (error) {
    if (error instanceof Malformed) throw error;
    throw new Malformed(`field ${field} is not UTF-8`);
  }
}
