/** Makes pytorch_model.bin files by hand, byte by byte, so that tests can make them lie. */

/** Pickle opcodes as Latin-1 text; see Python's pickletools. */
export const P = {
  proto: "\x80\x02",
  stop: ".",
  text: (value: string) => {
    const bytes = Buffer.from(value, "utf8");
    return `X${u32(bytes.byteLength)}${bytes.toString("latin1")}`;
  },
  whole: (value: number) => `J${u32(value)}`,
  long: (value: bigint, bytes = 8) =>
    `\x8a${String.fromCharCode(bytes)}${latin(Array.from({ length: bytes }, (_, i) => Number((value >> BigInt(8 * i)) & 255n)))}`,
  global: (module: string, name: string) => `c${module}\n${name}\n`,
  tuple: (...items: string[]) => `(${items.join("")}t`,
  /** A dict of a text and a value, ... */
  dict: (...items: string[]) => `ccollections\nOrderedDict\n)R(${items.join("")}u`,
  storage: (type: string, key: string, elements: string) =>
    `${P.tuple(P.text("storage"), P.global("torch", type), P.text(key), P.text("cpu"), elements)}Q`,
  /** A call of _rebuild_tensor_v2. */
  tensor: (storage: string, offset: string, shape: string[], strides: string[]) =>
    `${P.global("torch._utils", "_rebuild_tensor_v2")}${P.tuple(storage, offset, P.tuple(...shape), P.tuple(...strides), "\x89", P.dict())}R`,
};

function u32(value: number): string {
  return latin([value, value >>> 8, value >>> 16, value >>> 24]);
}

function latin(bytes: number[]): string {
  return String.fromCharCode(...bytes.map((byte) => byte & 255));
}

export function pickleBytes(text: string): Buffer {
  return Buffer.from(text, "latin1");
}

export interface Member {
  name: string;
  content: Uint8Array;
  /** In the directory instead of the true values. */
  lies?: { bytes?: number; stored?: number; header?: number; method?: number; flags?: number };
  /** In its own header instead of its name; how long its own header says that its extra field is. */
  localName?: string;
  localExtra?: number;
}

/** A zip file without zip64, members stored. `end`: values in the end record instead of the true ones. */
export function zipBytes(
  members: readonly Member[],
  end: { entries?: number; bytes?: number; start?: number; comment?: number } = {},
): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let position = 0;
  for (const { name, content, lies = {}, localName = name, localExtra = 0 } of members) {
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt32LE(content.byteLength, 18);
    local.writeUInt32LE(content.byteLength, 22);
    local.writeUInt16LE(Buffer.byteLength(localName), 26);
    local.writeUInt16LE(localExtra, 28);
    const entry = Buffer.alloc(46);
    entry.writeUInt32LE(0x02014b50, 0);
    entry.writeUInt16LE(lies.flags ?? 0, 8);
    entry.writeUInt16LE(lies.method ?? 0, 10);
    entry.writeUInt32LE(lies.stored ?? lies.bytes ?? content.byteLength, 20);
    entry.writeUInt32LE(lies.bytes ?? content.byteLength, 24);
    entry.writeUInt16LE(Buffer.byteLength(name), 28);
    entry.writeUInt32LE(lies.header ?? position, 42);
    directory.push(entry, Buffer.from(name));
    const whole = [local, Buffer.from(localName), Buffer.from(content)];
    parts.push(...whole);
    position += Buffer.concat(whole).byteLength;
  }
  const entries = Buffer.concat(directory);
  const last = Buffer.alloc(22);
  last.writeUInt32LE(0x06054b50, 0);
  last.writeUInt16LE(end.entries ?? members.length, 8);
  last.writeUInt16LE(end.entries ?? members.length, 10);
  last.writeUInt32LE(end.bytes ?? entries.byteLength, 12);
  last.writeUInt32LE(end.start ?? position, 16);
  last.writeUInt16LE(end.comment ?? 0, 20);
  return Buffer.concat([...parts, entries, last]);
}

/** A file of a pickle and storages. */
export function binBytes(pickle: string | Uint8Array, storages: Record<string, Uint8Array> = {}): Buffer {
  return zipBytes([
    { name: "m/data.pkl", content: typeof pickle === "string" ? pickleBytes(pickle) : pickle },
    ...Object.entries(storages).map(([key, content]) => ({ name: `m/data/${key}`, content })),
    { name: "m/version", content: Buffer.from("3\n") },
  ]);
}
