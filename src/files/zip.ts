import type { FileHandle } from "node:fs/promises";
import { readFully, truncated } from "./tensor-file.ts";
import { UserError } from "./user-error.ts";

/**
 * The directory of a zip file whose members are stored, not compressed: as much of the format (with zip64) as
 * `torch.save` writes. A member is then a range of the file, read piece by piece like a tensor of any other format.
 *
 * A library (yauzl) was weighed: it would parse the same records, but hand each member out as a stream of its own, not
 * tell whether two members overlap, and be one more dependency to trust with untrusted files. Checksums are not
 * checked, as torch.load does not either: they would cost a second reading of gigabytes.
 */
export interface ZipMember {
  readonly name: string;
  /** Bytes of its content. */
  readonly bytes: number;
  /** Where its local header begins. */
  readonly header: number;
  /** Where its content must have ended: the next member's header, or the directory. */
  readonly limit: number;
}

/** Against directories that would have us allocate anything they say: some hundred thousand members. */
const MAX_DIRECTORY_BYTES = 32 * 2 ** 20;

/** The end record, and before it zip64's end record and the locator that points at that. */
const END = { signature: 0x06054b50, bytes: 22 };
const END64 = { signature: 0x06064b50, bytes: 56 };
const LOCATOR64 = { signature: 0x07064b50, bytes: 20 };
const ENTRY = { signature: 0x02014b50, bytes: 46 };
const LOCAL = { signature: 0x04034b50, bytes: 30 };
/** A 16 or 32 bit field that is full says that zip64's field holds the value. */
const FULL16 = 0xffff;
const FULL32 = 0xffffffff;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Reads the directory at the end of a zip file and checks it: it reaches to the file's end, its members lie one after
 * another before it, each stored as it is.
 *
 * @throws UserError naming the file and the member: truncated, damaged, compressed, encrypted, overlapping.
 */
export async function readZipDirectory(
  path: string,
  file: FileHandle,
  fileBytes: number,
): Promise<Map<string, ZipMember>> {
  const fail = (what: string) =>
    new UserError(`${path}: ${what}; the zip file is damaged: download it again`);
  const { entries, start, bytes } = await readEnd(path, file, fileBytes, fail);
  if (bytes > MAX_DIRECTORY_BYTES) {
    throw fail(`its directory takes ${bytes} bytes (limit ${MAX_DIRECTORY_BYTES})`);
  }
  const directory = new Uint8Array(bytes);
  await readFully(file, path, directory, start);
  const members = parseEntries(directory, entries, fail);

  const ordered = [...members].sort((a, b) => a.header - b.header);
  const found = new Map<string, ZipMember>();
  ordered.forEach(({ name, bytes, header, nameBytes }, i) => {
    const next = ordered[i + 1];
    const limit = next ? next.header : start;
    if (header + LOCAL.bytes + nameBytes + bytes > limit) {
      throw fail(
        `member ${name} of ${bytes} bytes overlaps ${next ? `member ${next.name}` : "the directory"}`,
      );
    }
    if (found.has(name)) throw fail(`it holds two members named ${name}`);
    found.set(name, { name, bytes, header, limit });
  });
  return found;
}

/** Where a member's content begins, by its local header, which must agree with the directory. */
export async function locateMember(path: string, file: FileHandle, member: ZipMember): Promise<number> {
  const fail = (what: string) =>
    new UserError(`${path}: member ${member.name}: ${what}; the zip file is damaged: download it again`);
  const name = new TextEncoder().encode(member.name);
  const bytes = new Uint8Array(LOCAL.bytes + name.byteLength);
  await readFully(file, path, bytes, member.header);
  const view = new DataView(bytes.buffer);
  if (view.getUint32(0, true) !== LOCAL.signature) throw fail("the directory points at no member");
  if (view.getUint16(8, true) !== 0) throw fail("its own header says that it is compressed");
  const same =
    view.getUint16(26, true) === name.byteLength && name.every((byte, i) => bytes[LOCAL.bytes + i] === byte);
  if (!same) throw fail("its own header has another name");
  const start = member.header + bytes.byteLength + view.getUint16(28, true);
  if (start + member.bytes > member.limit) throw fail("it reaches into what follows it");
  return start;
}

type Fail = (what: string) => UserError;

/** The end record, exactly at the end of the file (nobody writes comments into a checkpoint), and zip64's if there. */
async function readEnd(
  path: string,
  file: FileHandle,
  fileBytes: number,
  fail: Fail,
): Promise<{ entries: number; start: number; bytes: number }> {
  const tail = new Uint8Array(Math.min(fileBytes, END.bytes + LOCATOR64.bytes + END64.bytes));
  await readFully(file, path, tail, fileBytes - tail.byteLength);
  const view = new DataView(tail.buffer);
  const end = tail.byteLength - END.bytes;
  if (end < 0 || view.getUint32(end, true) !== END.signature) {
    throw truncated(path, "it does not end in the directory of a zip file");
  }
  const fields = {
    disk: view.getUint16(end + 4, true),
    directoryDisk: view.getUint16(end + 6, true),
    entriesHere: view.getUint16(end + 8, true),
    entries: view.getUint16(end + 10, true),
    bytes: view.getUint32(end + 12, true),
    start: view.getUint32(end + 16, true),
  };
  if (view.getUint16(end + 20, true) !== 0) throw fail("its end announces a comment that is not there");
  let before = fileBytes - END.bytes;
  const locator = end - LOCATOR64.bytes;
  if (locator >= 0 && view.getUint32(locator, true) === LOCATOR64.signature) {
    const record = locator - END64.bytes;
    before -= LOCATOR64.bytes + END64.bytes;
    const consistent =
      record >= 0 &&
      view.getUint32(locator + 4, true) === 0 &&
      view.getBigUint64(locator + 8, true) === BigInt(before) &&
      view.getUint32(locator + 16, true) === 1 &&
      view.getUint32(record, true) === END64.signature &&
      view.getBigUint64(record + 4, true) === BigInt(END64.bytes - 12);
    if (!consistent) throw fail("its two end records do not belong together");
    const wide = {
      disk: view.getUint32(record + 16, true),
      directoryDisk: view.getUint32(record + 20, true),
      entriesHere: Number(view.getBigUint64(record + 24, true)),
      entries: Number(view.getBigUint64(record + 32, true)),
      bytes: Number(view.getBigUint64(record + 40, true)),
      start: Number(view.getBigUint64(record + 48, true)),
    };
    for (const key of Object.keys(fields) as (keyof typeof fields)[]) {
      const full = key === "bytes" || key === "start" ? FULL32 : FULL16;
      if (fields[key] !== full && fields[key] !== wide[key]) throw fail("its two end records disagree");
      fields[key] = wide[key];
    }
  }
  const { disk, directoryDisk, entriesHere, entries, bytes, start } = fields;
  if (disk !== 0 || directoryDisk !== 0 || entriesHere !== entries)
    throw fail("it is split over several files");
  if (start + bytes !== before) {
    throw fail(`its directory of ${bytes} bytes at byte ${start} does not reach to its end`);
  }
  if (entries * ENTRY.bytes > bytes)
    throw fail(`its directory of ${bytes} bytes has no room for ${entries} members`);
  return { entries, start, bytes };
}

interface Entry {
  readonly name: string;
  readonly nameBytes: number;
  readonly bytes: number;
  readonly header: number;
}

function parseEntries(directory: Uint8Array, count: number, fail: Fail): Entry[] {
  const view = new DataView(directory.buffer);
  const entries: Entry[] = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + ENTRY.bytes > directory.byteLength || view.getUint32(at, true) !== ENTRY.signature) {
      throw fail(`its directory is broken at member ${i + 1} of ${count}`);
    }
    const nameBytes = view.getUint16(at + 28, true);
    const extra = at + ENTRY.bytes + nameBytes;
    const extraEnd = extra + view.getUint16(at + 30, true);
    const next = extraEnd + view.getUint16(at + 32, true);
    if (next > directory.byteLength) throw fail(`its directory ends inside member ${i + 1} of ${count}`);
    let name: string;
    try {
      name = utf8.decode(directory.subarray(at + ENTRY.bytes, extra));
    } catch {
      throw fail(`the name of member ${i + 1} of ${count} is not UTF-8`);
    }
    const bad = (what: string) => fail(`member ${JSON.stringify(name)} ${what}`);
    if (view.getUint16(at + 8, true) & 1) throw bad("is encrypted");
    if (view.getUint16(at + 10, true) !== 0) {
      throw bad("is compressed, and torch.save stores members as they are");
    }
    const wide = wideFields(view, extra, extraEnd, bad);
    const field = (value: number) => (value === FULL32 ? wide() : value);
    const bytes = field(view.getUint32(at + 24, true));
    const stored = field(view.getUint32(at + 20, true));
    const header = field(view.getUint32(at + 42, true));
    if (bytes !== stored) throw bad(`has ${bytes} bytes, stored as ${stored}`);
    entries.push({ name, nameBytes, bytes, header });
    at = next;
  }
  if (at !== directory.byteLength) throw fail("its directory holds more than its members");
  return entries;
}

/** The 64-bit values of a zip64 extra field (id 1), one a call: size, stored size, place, each only where it is needed. */
function wideFields(view: DataView, start: number, end: number, bad: Fail): () => number {
  let at = start;
  let stop = start;
  for (let extra = start; extra + 4 <= end; ) {
    const bytes = view.getUint16(extra + 2, true);
    if (view.getUint16(extra, true) === 1) {
      at = extra + 4;
      stop = Math.min(at + bytes, end);
      break;
    }
    extra += 4 + bytes;
  }
  return () => {
    if (at + 8 > stop) throw bad("lacks the zip64 field that its size or place needs");
    at += 8;
    return Number(view.getBigUint64(at - 8, true));
  };
}
