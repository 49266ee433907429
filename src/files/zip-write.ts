import type { FileHandle } from "node:fs/promises";
import * as zlib from "node:zlib";

/** Where members' contents begin: at multiples of this, as torch.save puts them. */
const ALIGNMENT = 64;
/** A 32-bit field that is full says that zip64's field holds the value. */
const FULL = 0xffffffff;

/** The value of a field, and its bytes. */
type Field = [value: number, bytes: number];

/**
 * A zip file under way, as torch.save makes it: members stored, not compressed, aligned to 64 bytes, zip64 where
 * sizes or places need it. `zip.ts` reads such files.
 */
export class ZipWriter {
  readonly #file: FileHandle;
  readonly #folder: string;
  readonly #directory: Buffer[] = [];
  #position = 0;

  /** `folder` is put before every member's name. */
  constructor(file: FileHandle, folder: string) {
    this.#file = file;
    this.#folder = folder;
  }

  /** Writes a member of `bytes` bytes in pieces; gives how many there were. Its checksum enters the header last. */
  async member(
    name: string,
    bytes: number,
    pieces: Iterable<ArrayBufferView> | AsyncIterable<ArrayBufferView>,
  ): Promise<number> {
    const path = Buffer.from(`${this.#folder}/${name}`, "utf8");
    const header = this.#position;
    // Sizes beyond 32 bits are in an extra field; another one pads, so that the content begins aligned.
    const large =
      bytes >= FULL ? Buffer.concat([number(1, 2), number(16, 2), number(bytes, 8), number(bytes, 8)]) : "";
    const before = header + 30 + path.byteLength + large.length + 4;
    const padding = Buffer.alloc((ALIGNMENT - (before % ALIGNMENT)) % ALIGNMENT, "Z");
    const extra = Buffer.concat([
      Buffer.from(large),
      Buffer.from("FB"),
      number(padding.byteLength, 2),
      padding,
    ]);
    const short = Math.min(bytes, FULL);
    const fields: Field[] = [
      [0, 4],
      [short, 4],
      [short, 4],
      [path.byteLength, 2],
    ];
    await this.#write(record(0x04034b50, [], fields, [[extra.byteLength, 2]], [path, extra]));

    let sum = 0;
    let written = 0;
    for await (const piece of pieces) {
      const view = new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
      sum = crc32(view, sum);
      written += view.byteLength;
      await this.#write(view);
    }
    await this.#file.write(number(sum, 4), 0, 4, header + 14);

    const wide: Buffer[] = [];
    if (bytes >= FULL) wide.push(number(bytes, 8), number(bytes, 8));
    if (header >= FULL) wide.push(number(header, 8));
    const zip64 = wide.length > 0 ? [number(1, 2), number(8 * wide.length, 2), ...wide] : [];
    fields[0][0] = sum;
    const rest: Field[] = [
      [zip64.length > 0 ? 4 + 8 * wide.length : 0, 2],
      [0, 2],
      [0, 2],
      [0, 2],
      [0, 4],
    ];
    rest.push([Math.min(header, FULL), 4]);
    this.#directory.push(record(0x02014b50, [[45, 2]], fields, rest, [path, ...zip64]));
    return written;
  }

  /** Writes the directory, zip64's end record with its locator, and the end record. */
  async end(): Promise<void> {
    const start = this.#position;
    for (const entry of this.#directory) await this.#write(entry);
    const bytes = this.#position - start;
    const count = this.#directory.length;
    const end64 = this.#position;
    const fields: Field[] = [
      [0x06064b50, 4],
      [44, 8],
      [45, 2],
      [45, 2],
      [0, 4],
      [0, 4],
    ];
    fields.push([count, 8], [count, 8], [bytes, 8], [start, 8]);
    fields.push([0x07064b50, 4], [0, 4], [end64, 8], [1, 4]);
    const few = Math.min(count, 0xffff);
    fields.push([0x06054b50, 4], [0, 2], [0, 2], [few, 2], [few, 2]);
    fields.push([Math.min(bytes, FULL), 4], [Math.min(start, FULL), 4], [0, 2]);
    await this.#write(Buffer.concat(fields.map(([value, width]) => number(value, width))));
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let offset = 0; offset < bytes.byteLength; ) {
      const length = Math.min(bytes.byteLength - offset, 2 ** 30);
      const { bytesWritten } = await this.#file.write(bytes, offset, length, this.#position);
      offset += bytesWritten;
      this.#position += bytesWritten;
    }
  }
}

/** What local headers and the directory's entries have in common: UTF-8 names (bit 11), stored, no time. */
function record(
  signature: number,
  made: readonly Field[],
  fields: readonly Field[],
  rest: readonly Field[],
  tail: readonly Buffer[],
): Buffer {
  const start: Field[] = [[signature, 4], ...made, [45, 2], [0x800, 2], [0, 2], [0, 4]];
  const numbers = [...start, ...fields, ...rest].map(([value, bytes]) => number(value, bytes));
  return Buffer.concat([...numbers, ...tail]);
}

/** A whole number below 2^53 in little-endian bytes. */
export function number(value: number, bytes: number): Buffer {
  return Buffer.from(Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** i) % 256));
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let i = 0; i < 8; i++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  return rest;
});

function ownCrc32(bytes: Uint8Array, sum: number): number {
  let rest = ~sum;
  for (const byte of bytes) rest = CRC_TABLE[(rest ^ byte) & 255] ^ (rest >>> 8);
  return ~rest >>> 0;
}

/** The CRC-32 of zip files, going on from `sum`. Node has had its own, many times faster, since 20.15. */
const crc32 = (zlib as { crc32?: (bytes: Uint8Array, sum: number) => number }).crc32 ?? ownCrc32;
