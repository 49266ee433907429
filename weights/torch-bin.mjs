// Writes a pytorch_model.bin as torch.save does: a zip file (zip64, members stored and aligned to 64 bytes) of a pickled
// state dict and one raw storage a tensor. For checkpoints of random weights in the layout of published ones, and for
// tests; models to be kept are better written as safetensors. src/files/torch-bin.ts reads them, torch.load too
// (test/reference/torch_bin.py --check).
import { open, rename, rm } from "node:fs/promises";
import * as zlib from "node:zlib";

/** The storage class and the bytes an element of each dtype, by its safetensors name. */
const STORAGES = {
  F32: ["FloatStorage", 4],
  F16: ["HalfStorage", 2],
  BF16: ["BFloat16Storage", 2],
  F64: ["DoubleStorage", 8],
  I64: ["LongStorage", 8],
  I32: ["IntStorage", 4],
  I16: ["ShortStorage", 2],
  I8: ["CharStorage", 1],
  U8: ["ByteStorage", 1],
  BOOL: ["BoolStorage", 1],
};

/**
 * Writes a file of tensors, one after another: only the piece at hand is in memory. `data` is a typed array, or a
 * function that gives one or an iterable (async or not) of pieces. The file appears under its name when it is whole.
 * Throws RangeError for data whose size is not that of dtype and shape.
 *
 * @param {string} path
 * @param {readonly { name: string, dtype: string, shape: readonly number[], data: unknown }[]} tensors
 */
export async function writeTorchBin(path, tensors) {
  const partial = `${path}.partial`;
  const file = await open(partial, "w");
  try {
    const folder = path.replace(/^.*[/\\]|\.[^.]*$/g, "");
    const zip = new Zip(file, folder);
    const pickle = pickleState(tensors);
    await zip.member("data.pkl", pickle.byteLength, [pickle]);
    for (const [i, { name, dtype, shape, data }] of tensors.entries()) {
      const bytes = sizeOf(shape) * STORAGES[dtype][1];
      const given = typeof data === "function" ? await data() : data;
      const written = await zip.member(`data/${i}`, bytes, ArrayBuffer.isView(given) ? [given] : given);
      if (written !== bytes)
        throw new RangeError(`tensor ${name} for ${path}: ${written} bytes of data, expected ${bytes}`);
    }
    await zip.member("version", 2, [Buffer.from("3\n")]);
    await zip.end();
    await file.sync();
    await file.close();
    await rename(partial, path);
  } catch (error) {
    await file.close().catch(() => {});
    await rm(partial, { force: true });
    throw error;
  }
}

function sizeOf(shape) {
  return shape.reduce((product, extent) => product * extent, 1);
}

/** Row-major strides. */
function stridesOf(shape) {
  return shape.map((_, i) => sizeOf(shape.slice(i + 1)));
}

/** The pickle (protocol 2) of OrderedDict(name -> _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())). */
function pickleState(tensors) {
  const dict = [global("collections", "OrderedDict"), ")R"];
  const parts = ["\x80\x02", ...dict, "("];
  for (const [i, { name, dtype, shape }] of tensors.entries()) {
    const storage = ["(", text("storage"), global("torch", STORAGES[dtype][0]), text(String(i)), text("cpu")];
    parts.push(text(name), global("torch._utils", "_rebuild_tensor_v2"), "(");
    parts.push(...storage, whole(sizeOf(shape)), "tQ", whole(0));
    parts.push(tuple(shape), tuple(stridesOf(shape)), "\x89", ...dict, "tR");
  }
  parts.push("u.");
  return Buffer.from(parts.join(""), "latin1");
}

// Opcodes as Latin-1 strings: one character a byte.

function global(module, name) {
  return `c${module}\n${name}\n`;
}

function text(string) {
  const bytes = Buffer.from(string, "utf8");
  return `X${little(bytes.byteLength, 4)}${bytes.toString("latin1")}`;
}

function whole(number) {
  return number < 2 ** 31 ? `J${little(number, 4)}` : `\x8a\x08${little(number, 8)}`;
}

function tuple(numbers) {
  return `(${numbers.map(whole).join("")}t`;
}

function little(number, bytes) {
  return Array.from({ length: bytes }, (_, i) =>
    String.fromCharCode(Math.floor(number / 256 ** i) % 256),
  ).join("");
}

const ALIGNMENT = 64;
const FULL = 0xffffffff;

/** A zip file under way. */
class Zip {
  constructor(file, folder) {
    this.file = file;
    this.folder = folder;
    this.position = 0;
    this.directory = [];
  }

  /** Writes `bytes` bytes of content in pieces; gives how many there were. The checksum is put into the header last. */
  async member(name, bytes, pieces) {
    const path = Buffer.from(`${this.folder}/${name}`, "utf8");
    const header = this.position;
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
    const fields = [
      [0, 4],
      [short, 4],
      [short, 4],
      [path.byteLength, 2],
    ];
    await this.write(this.header(0x04034b50, [], fields, [[extra.byteLength, 2]], [path, extra]));

    let sum = 0;
    let written = 0;
    for await (const piece of pieces) {
      const view = new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
      sum = crc32(view, sum);
      written += view.byteLength;
      await this.write(view);
    }
    await this.file.write(number(sum, 4), 0, 4, header + 14);

    const wide = [];
    if (bytes >= FULL) wide.push(number(bytes, 8), number(bytes, 8));
    if (header >= FULL) wide.push(number(header, 8));
    const zip64 = wide.length > 0 ? [number(1, 2), number(8 * wide.length, 2), ...wide] : [];
    fields[0][0] = sum;
    const rest = [
      [zip64.length > 0 ? 4 + 8 * wide.length : 0, 2],
      [0, 2],
      [0, 2],
      [0, 2],
      [0, 4],
    ];
    rest.push([Math.min(header, FULL), 4]);
    this.directory.push(this.header(0x02014b50, [[45, 2]], fields, rest, [path, ...zip64]));
    return written;
  }

  /** What local headers and the directory's entries have in common: UTF-8 names (bit 11), stored, no time. */
  header(signature, made, fields, rest, tail) {
    const start = [[signature, 4], ...made, [45, 2], [0x800, 2], [0, 2], [0, 4]];
    const numbers = [...start, ...fields, ...rest].map(([value, bytes]) => number(value, bytes));
    return Buffer.concat([...numbers, ...tail]);
  }

  /** The directory, zip64's end record with its locator, and the end record. */
  async end() {
    const start = this.position;
    for (const entry of this.directory) await this.write(entry);
    const bytes = this.position - start;
    const count = this.directory.length;
    const end64 = this.position;
    const record = [
      [0x06064b50, 4],
      [44, 8],
      [45, 2],
      [45, 2],
      [0, 4],
      [0, 4],
    ];
    record.push([count, 8], [count, 8], [bytes, 8], [start, 8]);
    record.push([0x07064b50, 4], [0, 4], [end64, 8], [1, 4]);
    const few = Math.min(count, 0xffff);
    record.push([0x06054b50, 4], [0, 2], [0, 2], [few, 2], [few, 2]);
    record.push([Math.min(bytes, FULL), 4], [Math.min(start, FULL), 4], [0, 2]);
    await this.write(Buffer.concat(record.map(([value, bytes]) => number(value, bytes))));
  }

  async write(bytes) {
    for (let offset = 0; offset < bytes.byteLength; ) {
      const length = Math.min(bytes.byteLength - offset, 1 << 30);
      const { bytesWritten } = await this.file.write(bytes, offset, length, this.position);
      offset += bytesWritten;
      this.position += bytesWritten;
    }
  }
}

/** A whole number in little-endian bytes. */
function number(value, bytes) {
  return Buffer.from(little(value, bytes), "latin1");
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let i = 0; i < 8; i++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  return rest;
});

/** The CRC-32 of zip files, going on from `sum`. Node has had its own, many times faster, since 20.15. */
const crc32 =
  zlib.crc32 ??
  ((bytes, sum) => {
    let rest = ~sum;
    for (let i = 0; i < bytes.length; i++) rest = CRC_TABLE[(rest ^ bytes[i]) & 255] ^ (rest >>> 8);
    return ~rest >>> 0;
  });
