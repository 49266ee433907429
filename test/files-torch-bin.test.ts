import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Random } from "../src/data/random.ts";
import { openSafetensors, type StoredType } from "../src/files/safetensors.ts";
import type { TensorFile } from "../src/files/tensor-file.ts";
import { openTorchBin } from "../src/files/torch-bin.ts";
import { writeTorchBin } from "../src/files/torch-bin-write.ts";
import { UserError } from "../src/files/user-error.ts";
import { openCheckpoint } from "../src/llm/checkpoint-index.ts";
import { repositoryPath } from "./shared.ts";
import { temporaryFolder } from "./temporary.ts";
import { binBytes, type Member, P, pickleBytes, zipBytes } from "./torch-bin-bytes.ts";

const t = suite("pytorch_model.bin");
const folder = temporaryFolder();
const path = join(folder, "pytorch_model.bin");
/** Files that torch.save wrote, with their twin in safetensors: test/reference/torch_bin.py. */
const reference = repositoryPath("test/reference/torch-bin");

/** The one-line message with which the bytes of a file are refused; it always names the file. */
async function refusal(bytes: Uint8Array): Promise<string> {
  writeFileSync(path, bytes);
  try {
    await (await openTorchBin(path)).close();
  } catch (error) {
    assert.instance(error, UserError);
    const { message } = error as Error;
    assert.not.match(message, "\n");
    assert.ok(message.startsWith(`${path}: `), message);
    return message;
  }
  throw new Error("the file was accepted");
}

/** A file of one tensor named w, which says what it likes of itself; its storage 0 holds `bytes` bytes. */
function one(options: {
  type?: string;
  key?: string;
  elements?: string;
  offset?: string;
  shape?: string[];
  strides?: string[];
  bytes?: number;
}): Buffer {
  const { type = "FloatStorage", key = "0", elements = P.whole(6), bytes = 24 } = options;
  const { offset = P.whole(0), shape = [2, 3].map(P.whole), strides = [3, 1].map(P.whole) } = options;
  const tensor = P.tensor(P.storage(type, key, elements), offset, shape, strides);
  return binBytes(`${P.proto}${P.dict(P.text("w"), tensor)}${P.stop}`, { 0: new Uint8Array(bytes) });
}

async function bytesOf(file: Pick<TensorFile, "chunks">, name: string, maxBytes: number): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of file.chunks(name, maxBytes)) {
    assert.ok(piece.byteLength <= maxBytes);
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

t("torch.save's own file has the values of its safetensors twin, whole and in pieces", async () => {
  await using bin = await openTorchBin(join(reference, "pytorch_model.bin"));
  await using twin = await openSafetensors(join(reference, "model.safetensors"));
  assert.equal([...bin.tensors.keys()].sort(), [...twin.tensors.keys()].sort());
  const types = new Set<StoredType>();
  for (const name of twin.tensors.keys()) {
    const { dtype, shape } = twin.info(name);
    types.add(dtype);
    assert.equal({ dtype: bin.info(name).dtype, shape: bin.info(name).shape }, { dtype, shape }, name);
    const expected = await twin.read(name);
    assert.equal(await bin.read(name), expected, name);
    for (const maxBytes of [8, 50, 1 << 20]) {
      assert.equal(await bytesOf(bin, name, maxBytes), Buffer.from(expected), name);
    }
  }
  assert.is(types.size, 10);
  assert.equal(
    await bin.float32("transformer.layers.0.bias"),
    await twin.float32("transformer.layers.0.bias"),
  );
  // Tied tensors and slices lie in one storage.
  const embedding = bin.info("transformer.embedding.weight");
  assert.is(bin.info("lm_head.weight").start, embedding.start);
  assert.is(bin.info("slice").start, embedding.start + 2 * 24 * 4);
});

t("shards of torch.save behind their index: the same checkpoint", async () => {
  await using twin = await openSafetensors(join(reference, "model.safetensors"));
  await using checkpoint = await openCheckpoint(join(reference, "sharded"));
  assert.equal([...checkpoint.names].sort(), [...twin.tensors.keys()].sort());
  for (const name of checkpoint.names) {
    const expected = await twin.read(name);
    assert.is(checkpoint.info(name).bytes, expected.byteLength);
    assert.equal(await bytesOf(checkpoint, name, 64), Buffer.from(expected));
  }
});

t("the writer's files read back, streamed or whole", async () => {
  const values = Float32Array.from({ length: 300 }, (_, i) => i - 150.5);
  await writeTorchBin(path, [
    { name: "a", dtype: "F32", shape: [30, 10], data: values },
    {
      name: "é b",
      dtype: "F16",
      shape: [5],
      data: async function* () {
        yield Uint16Array.of(1, 2);
        yield Uint16Array.of(3, 4, 0x3c00);
      },
    },
    { name: "none", dtype: "BF16", shape: [0, 7], data: () => new Uint16Array(0) },
    { name: "one", dtype: "I64", shape: [], data: () => BigInt64Array.of(-7n) },
  ]);
  await using file = await openTorchBin(path);
  assert.equal(
    [...file.tensors].map(([name, { dtype, shape }]) => [name, dtype, shape]),
    [
      ["a", "F32", [30, 10]],
      ["é b", "F16", [5]],
      ["none", "BF16", [0, 7]],
      ["one", "I64", []],
    ],
  );
  assert.equal(await file.float32("a"), values);
  assert.equal([...new Uint16Array((await file.read("é b")).buffer)], [1, 2, 3, 4, 0x3c00]);
  assert.equal([...new BigInt64Array((await file.read("one")).buffer)], [-7n]);
  for (const { start } of file.tensors.values()) assert.is(start % 64, 0);
  const short = writeTorchBin(join(folder, "short.bin"), [
    { name: "a", dtype: "F32", shape: [2], data: new Float32Array(3) },
  ]);
  await short.then(
    () => assert.unreachable(),
    (error) => assert.match(error.message, /tensor a for .*: 12 bytes of data, expected 8/),
  );
});

t("a storage and places beyond 4 GiB (zip64), in a file that is mostly a hole", async () => {
  if (process.platform === "win32") {
    console.log("SKIPPED: files with holes are slow to make on Windows");
    return;
  }
  const large = 2 ** 32 + 8;
  const wide = (signature: number, at: number, numbers: [value: number, bytes: number][], tail = "") => {
    const bytes = Buffer.alloc(at);
    bytes.writeUInt32LE(signature);
    const rest = numbers.map(([value, count]) => {
      const number = Buffer.alloc(8);
      number.writeBigUInt64LE(BigInt(value));
      return number.subarray(0, count);
    });
    return Buffer.concat([bytes, ...rest, Buffer.from(tail)]);
  };
  const elements = P.long(BigInt(large / 4));
  const last = P.tensor(
    P.storage("FloatStorage", "0", elements),
    P.long(BigInt(large / 4 - 2)),
    [P.whole(2)],
    [P.whole(1)],
  );
  const whole = P.tensor(P.storage("FloatStorage", "0", elements), P.whole(0), [elements], [P.whole(1)]);
  const after = P.tensor(P.storage("HalfStorage", "1", P.whole(3)), P.whole(0), [P.whole(3)], [P.whole(1)]);
  const pickle = pickleBytes(
    `${P.proto}${P.dict(P.text("whole"), whole, P.text("last"), last, P.text("after"), after)}${P.stop}`,
  );
  const local = (name: string) =>
    wide(
      0x04034b50,
      26,
      [
        [name.length, 2],
        [0, 2],
      ],
      name,
    );
  const entry = (name: string, bytes: number, header: number) => {
    const full = 2 ** 32 - 1;
    const extra: [number, number][] = [];
    if (bytes > full) extra.push([bytes, 8], [bytes, 8]);
    if (header > full) extra.push([header, 8]);
    if (extra.length > 0) extra.unshift([1, 2], [8 * extra.length, 2]);
    const extraBytes = extra.reduce((sum, [, count]) => sum + count, 0);
    const short = (value: number): [number, number] => [Math.min(value, full), 4];
    const head = wide(
      0x02014b50,
      20,
      [short(bytes), short(bytes), [name.length, 2], [extraBytes, 2], [0, 8], [0, 2], short(header)],
      name,
    );
    return Buffer.concat([head, wide(0, 4, extra).subarray(4)]);
  };
  const file = openSync(path, "w");
  let position = 0;
  const directory: Buffer[] = [];
  const put = (bytes: Buffer) => {
    writeSync(file, bytes, 0, bytes.byteLength, position);
    position += bytes.byteLength;
  };
  const member = (name: string, bytes: number, content: Buffer) => {
    directory.push(entry(name, bytes, position));
    put(local(name));
    position += bytes - content.byteLength;
    put(content);
  };
  member("m/data.pkl", pickle.byteLength, pickle);
  member("m/data/0", large, Buffer.from(Float32Array.of(1.5, -2).buffer));
  member("m/data/1", 6, Buffer.from(Uint16Array.of(7, 8, 9).buffer));
  const start = position;
  for (const bytes of directory) put(bytes);
  const bytes = position - start;
  const end64 = position;
  put(
    wide(0x06064b50, 4, [
      [44, 8],
      [45, 2],
      [45, 2],
      [0, 8],
      [3, 8],
      [3, 8],
      [bytes, 8],
      [start, 8],
    ]),
  );
  put(
    wide(0x07064b50, 8, [
      [end64, 8],
      [1, 4],
    ]),
  );
  put(
    wide(0x06054b50, 8, [
      [3, 2],
      [3, 2],
      [bytes, 4],
      [2 ** 32 - 1, 4],
      [0, 2],
    ]),
  );
  closeSync(file);

  {
    await using file = await openTorchBin(path);
    assert.equal([...(await file.float32("last"))], [1.5, -2]);
    assert.equal([...new Uint16Array((await file.read("after")).buffer)], [7, 8, 9]);
    assert.equal(file.info("whole").end - file.info("whole").start, large);
    // The first piece of a tensor larger than one read of Node allows.
    for await (const piece of file.chunks("whole", 1 << 16)) {
      assert.is(piece.byteLength, 1 << 16);
      break;
    }
  }
  ftruncateSync(openSync(path, "w"), 0);
});

t("pickles that would run code are refused by the name of what they ask for", async () => {
  const touch = P.tuple(P.text(`touch ${join(folder, "canary")}`));
  const system = P.global("os", "system");
  const cases: [pickle: string, pattern: RegExp][] = [
    [`${system}${touch}R`, /asks for global os\.system .* refused, it could run code/],
    [`${P.global("posix", "system")}${touch}R`, /global posix\.system/],
    [`${P.global("builtins", "eval")}${P.tuple(P.text("1"))}R`, /global builtins\.eval/],
    [`${P.global("__builtin__", "eval")}${P.tuple(P.text("1"))}R`, /global __builtin__\.eval/],
    [`${P.global("builtins", "getattr")}${P.tuple(P.text("1"), P.text("x"))}R`, /global builtins\.getattr/],
    [`${P.global("torch", "load")}${touch}R`, /global torch\.load/],
    [`${P.global("torch.serialization", "load")}${touch}R`, /global torch\.serialization\.load/],
    [`${P.global("torch._utils", "_rebuild_tensor_v3")}`, /global torch\._utils\._rebuild_tensor_v3/],
    [`${P.global("torch", "ComplexFloatStorage")}`, /global torch\.ComplexFloatStorage/],
    [`${P.global("collections", "OrderedDict.__init__")}`, /global collections\.OrderedDict\.__init__/],
    [`${P.global("os\u0000", "system")}`, /global "os\\u0000\.system"/],
    // Inside what is otherwise a state dict: as a value, an argument, a key, a hook, a persistent id, a state.
    [P.dict(P.text("w"), `${system}${touch}R`), /os\.system/],
    [`${P.global("collections", "OrderedDict")}${P.tuple(`${system}${touch}R`)}R`, /os\.system/],
    [P.dict(`${system}${touch}R`, P.whole(1)), /os\.system/],
    [P.tensor(`${system}${touch}R`, P.whole(0), [], []), /os\.system/],
    [`${P.tuple(P.text("storage"), system, P.text("0"), P.text("cpu"), P.whole(1))}Q`, /os\.system/],
    [`${P.dict()}${system}b`, /os\.system/],
    // Calls of what is not to be called: a class, a tensor, a dict, a text, the result of a call.
    [`${P.global("torch", "FloatStorage")}${touch}R`, /a call of torch\.FloatStorage/],
    [`${P.dict()}${touch}R`, /a call of a dict/],
    [`${P.text("os.system")}${touch}R`, /a call of a string/],
    [`${P.storage("FloatStorage", "0", P.whole(1))}${touch}R`, /a call of an object/],
    [`${P.tensor(P.text("x"), P.whole(0), [], [])}${touch}R`, /a call of an object/],
    // __setstate__ in disguise.
    [`${P.tensor(P.text("x"), P.whole(0), [], [])}${P.dict()}b`, /opcode BUILD on an object/],
    [`${P.dict()}${P.text("state")}b`, /opcode BUILD on a dict/],
    [`${P.global("torch", "FloatStorage")}${P.dict()}b`, /opcode BUILD on torch\.FloatStorage/],
    // Other ways to name and to call.
    [`(ios\nsystem\n`, /opcode INST /],
    [`(${P.text("x")}o`, /opcode OBJ /],
    [`${P.text("os")}${P.text("system")}\x93`, /opcode STACK_GLOBAL /],
    [`${P.global("collections", "OrderedDict")})\x81`, /opcode NEWOBJ /],
    [`${P.global("collections", "OrderedDict")})}\x92`, /opcode NEWOBJ_EX /],
    ["\x82\x01", /opcode EXT1 /],
    ["Pos.system\n", /opcode PERSID /],
    ["]", /opcode EMPTY_LIST /],
    ["G\0\0\0\0\0\0\0\0", /opcode BINFLOAT /],
    ["\x97", /opcode NEXT_BUFFER /],
    ["\xff", /opcode 0xff /],
    ["\x80\x04", /protocol 4, expected 2/],
  ];
  for (const [pickle, pattern] of cases) {
    const message = await refusal(binBytes(`${P.proto}${pickle}${P.stop}`));
    assert.match(message, pattern);
    assert.match(message, /its pickle asks for .*: refused, it could run code; use the model's safetensors/);
  }
  assert.throws(() => readFileSync(join(folder, "canary")), /ENOENT/);
});

t("pickles that are no state dict, or damaged", async () => {
  const cases: [pickle: string, pattern: RegExp][] = [
    [`${P.proto}${P.text("hello")}.`, /it holds a string, expected a state dict/],
    [`${P.proto}${P.tensor(P.text("x"), P.whole(0), [], [])}.`, /it holds an object, expected a state dict/],
    [
      `${P.proto}${P.dict(P.text("model"), P.dict())}.`,
      /entry model is a dict of 0, expected names and tensors; save model\.state_dict\(\) alone/,
    ],
    [`${P.proto}${P.dict(P.text("epoch"), P.whole(3))}.`, /entry epoch is 3, expected/],
    [`${P.proto}${P.dict(P.whole(3), P.whole(3))}.`, /entry 3 is 3, expected/],
    [`${P.proto}${P.dict(P.text("a"), "N", P.text("a"), "N")}.`, /a dict has the key a twice/],
    [`${P.proto}${P.dict("N", "N")}.`, /a key is None/],
    [`${P.proto}${P.dict(P.text("a"))}.`, /a key has no value/],
    [`${P.proto}NNNs.`, /items are set on None/],
    [`${P.proto}NNs.`, /a value is missing/],
    [`${P.proto}(NNNNs.`, /items are set on None/],
    [`${P.proto}N(NNs.`, /a value is missing/],
    [`${P.proto}t.`, /a mark is missing/],
    [`${P.proto}.`, /a value is missing/],
    [`${P.proto}NN.`, /more than one value/],
    [`${P.proto}(N.`, /more than one value/],
    [`${P.proto}N.N`, /bytes follow its end/],
    [`${P.proto}N`, /its pickle is damaged: it is cut off/],
    ["", /it is cut off/],
    [`${P.proto}h\x05.`, /it refers to 5, which it has not stored/],
    [`${P.proto}q\x05.`, /a value is missing/],
    [`${P.proto}X\xff\xff\xff\xff`, /it is cut off/],
    [`${P.proto}X\x01\0\0\0\xff.`, /a string is not UTF-8/],
    [`${P.proto}cos`, /it is cut off/],
    [`${P.proto}${P.long(2n ** 60n)}.`, /a number is beyond 2\^53/],
    [`${P.proto}${P.long(1n, 9)}.`, /a number is beyond 2\^53/],
    [
      `${P.proto}${P.global("collections", "OrderedDict")}NR.`,
      /OrderedDict is called with None, not a tuple/,
    ],
  ];
  for (const [pickle, pattern] of cases) assert.match(await refusal(binBytes(pickle)), pattern);
  writeFileSync(path, binBytes(`${P.proto}${P.dict()}.`));
  await using file = await openTorchBin(path);
  assert.is(file.tensors.size, 0);
});

t("tensors that do not fit their storage are named", async () => {
  const huge = P.long(2n ** 52n);
  const cases: [options: Parameters<typeof one>[0], pattern: RegExp][] = [
    [{ bytes: 20 }, /its storage data\/0 has 20 bytes, expected 6 elements of F32/],
    [{ bytes: 48 }, /its storage data\/0 has 48 bytes/],
    [{ type: "HalfStorage" }, /its storage data\/0 has 24 bytes, expected 6 elements of F16/],
    [{ key: "1" }, /its storage data\/1 is not in the file/],
    [{ key: "../../x\n" }, /its storage data\/"\.\.\/\.\.\/x\\n" is not in the file/],
    [{ offset: P.whole(1) }, /shape \[2, 3\] at element 1 reaches beyond its storage of 6 elements/],
    [{ offset: P.whole(-1) }, /offset -1, expected a whole number/],
    [{ offset: huge }, /reaches beyond its storage/],
    [{ shape: [3, 3].map(P.whole) }, /shape \[3, 3\] at element 0 reaches beyond/],
    [{ shape: [huge, huge] }, /reaches beyond its storage/],
    [{ shape: Array(64).fill(huge), strides: Array(64).fill(huge) }, /reaches beyond its storage/],
    [{ shape: [P.whole(-2), P.whole(-3)] }, /its shape is not a tuple of whole numbers/],
    [{ shape: ["N", P.whole(3)] }, /its shape is not a tuple/],
    [{ shape: Array(65).fill(P.whole(1)), strides: Array(65).fill(P.whole(1)) }, /its shape is not/],
    [{ strides: [P.whole(1)] }, /its strides are not as many whole numbers as its shape \[2, 3\] has/],
    [
      { strides: [1, 2].map(P.whole) },
      /shape \[2, 3\] with strides \[1, 2\] is not contiguous; save it with tensor\.contiguous\(\)/,
    ],
    [{ strides: [0, 1].map(P.whole) }, /strides \[0, 1\] is not contiguous/],
    [{ elements: "N" }, /its storage has no key or size/],
    [{ elements: P.whole(-6) }, /its storage has no key or size/],
  ];
  for (const [options, pattern] of cases) {
    const message = await refusal(one(options));
    assert.match(message, pattern);
    assert.match(message, /: tensor w: /);
  }
  const bad = (tensor: string) => refusal(binBytes(`${P.proto}${P.dict(P.text("a\nb"), tensor)}.`));
  assert.match(await bad(P.tensor("N", P.whole(0), [], [])), /tensor "a\\nb": it is not made of a storage/);
  assert.match(await bad(P.tensor("NQ", P.whole(0), [], [])), /its storage is not one of torch\.save/);
  assert.match(
    await bad(`${P.global("torch._utils", "_rebuild_tensor_v2")})R`),
    /it is not made of a storage/,
  );
  // What is right: a part of a storage, rows of one element with any stride, an empty tensor with any strides.
  const right: Parameters<typeof one>[0][] = [
    { offset: P.whole(3), shape: [P.whole(3)], strides: [P.whole(1)] },
    { shape: [1, 6, 1].map(P.whole), strides: [99, 1, 77].map(P.whole) },
    { shape: [0, 6].map(P.whole), strides: [5, 5].map(P.whole) },
    { shape: [], strides: [], offset: P.whole(5) },
    { elements: P.long(6n, 1) },
  ];
  for (const options of right) {
    writeFileSync(path, one(options));
    await using file = await openTorchBin(path);
    await file.read("w");
  }
});

t("zip files that are truncated, compressed or lie", async () => {
  const good: Member[] = [
    { name: "m/data.pkl", content: pickleBytes(`${P.proto}${P.dict()}.`) },
    { name: "m/data/0", content: new Uint8Array(24) },
    { name: "m/version", content: Buffer.from("3\n") },
  ];
  const lie = (index: number, change: Partial<Member>) =>
    refusal(zipBytes(good.map((member, i) => (i === index ? { ...member, ...change } : member))));
  assert.match(
    await lie(1, { lies: { bytes: 25 } }),
    /member m\/data\/0 of 25 bytes overlaps member m\/version/,
  );
  assert.match(
    await lie(1, { lies: { bytes: 0xfffffffe } }),
    /member m\/data\/0 of 4294967294 bytes overlaps/,
  );
  assert.match(await lie(1, { lies: { bytes: 0xffffffff } }), /"m\/data\/0" lacks the zip64 field/);
  assert.match(await lie(2, { lies: { bytes: 3 } }), /member m\/version of 3 bytes overlaps the directory/);
  assert.match(await lie(1, { lies: { stored: 23 } }), /member "m\/data\/0" has 24 bytes, stored as 23/);
  assert.match(await lie(1, { lies: { method: 8 } }), /member "m\/data\/0" is compressed/);
  assert.match(await lie(1, { lies: { flags: 1 } }), /member "m\/data\/0" is encrypted/);
  assert.match(await lie(1, { lies: { header: 0 } }), /overlaps/);
  assert.match(await lie(0, { lies: { header: 7 } }), /overlaps/);
  assert.match(await lie(1, { name: "m/data.pkl" }), /it holds two members named m\/data\.pkl/);
  assert.match(await lie(1, { name: "n/data.pkl" }), /it holds 2 members NAME\/data\.pkl/);
  assert.match(await lie(0, { name: "data.pkl" }), /it holds 0 members NAME\/data\.pkl/);
  assert.match(
    await lie(0, { localName: "m/data.pk1" }),
    /member m\/data\.pkl: its own header has another name/,
  );
  assert.match(
    await lie(2, { name: "m/byteorder", content: Buffer.from("big") }),
    /byte order big, expected little/,
  );
  assert.match(await lie(0, { localExtra: 1 }), /member m\/data\.pkl: it reaches into what follows it/);
  const end = (change: Parameters<typeof zipBytes>[1]) => refusal(zipBytes(good, change));
  assert.match(await end({ entries: 2 }), /holds more than its members/);
  assert.match(await end({ entries: 4 }), /no room for 4 members/);
  assert.match(await end({ entries: 0xffff }), /no room for 65535 members/);
  assert.match(await end({ bytes: 10 }), /does not reach to its end/);
  assert.match(await end({ start: 0 }), /does not reach to its end/);
  assert.match(await end({ comment: 5 }), /comment/);

  const whole = readFileSync(join(reference, "pytorch_model.bin"));
  for (const length of [4, 21, 22, 97, 98, 5000, whole.byteLength - 1]) {
    assert.match(await refusal(whole.subarray(0, length)), /truncated/);
  }
  assert.match(await refusal(Buffer.concat([whole, Buffer.alloc(1)])), /does not end in the directory/);
  assert.match(await refusal(new Uint8Array(0)), /not a zip file/);
  assert.match(await refusal(Buffer.from("version https://git-lfs.github.com/spec/v1\n")), /Git LFS pointer/);
  const legacy = Buffer.from("8002 8a0a 6cfc 9c46 f920 6aa8 5019 2e80".replaceAll(" ", ""), "hex");
  assert.match(
    await refusal(legacy),
    /torch\.save wrote before 1\.6, is not read; with a current PyTorch, write/,
  );
  // zip64's record beside the end record, both of torch.save.
  const patch = (fromEnd: number, value: number) => {
    const copy = Buffer.from(whole);
    copy[copy.byteLength - fromEnd] = value;
    return refusal(copy);
  };
  assert.match(await patch(22 + 20, 0), /does not reach to its end|directory/);
  assert.match(await patch(22 + 20 - 8, 1), /two end records do not belong together/);
  assert.match(await patch(22 - 8, 1), /two end records disagree|split/);
});

/** Changes bytes as damage or malice might; `places` are where it matters most. */
function mutate(bytes: Buffer, random: Random): Buffer {
  const from = random.below(bytes.byteLength);
  const length = 1 + random.below(Math.min(64, bytes.byteLength - from));
  const to = random.below(bytes.byteLength);
  const piece = bytes.subarray(from, from + length);
  const copy = Buffer.from(bytes);
  switch (random.below(8)) {
    case 0:
      copy[from] ^= 1 << random.below(8);
      return copy;
    case 1:
      for (let i = 0; i < 4; i++) copy[random.below(copy.byteLength)] = random.below(256);
      return copy;
    case 2:
      return copy.subarray(0, from);
    case 3: // A range a second time.
      return Buffer.concat([bytes.subarray(0, to), piece, bytes.subarray(to)]);
    case 4: // A range left out.
      return Buffer.concat([bytes.subarray(0, from), bytes.subarray(from + length)]);
    case 5: // A range over another.
      piece.copy(copy, to);
      return copy;
    case 6:
      return copy.fill(0xff, from, from + Math.min(length, 8));
    default:
      return copy.fill(0, from, from + Math.min(length, 8));
  }
}

t("10,000 damaged files: each loads or is refused, soon and in little memory", async () => {
  const file = readFileSync(join(reference, "sharded", "pytorch_model-00002-of-00002.bin"));
  const pickleStart = file.indexOf(P.proto, 0, "latin1");
  const pickle = file.subarray(pickleStart, file.indexOf("PK\x07\x08", pickleStart, "latin1"));
  const directory = file.indexOf("PK\x01\x02", 0, "latin1");
  const storages: Record<string, Uint8Array> = {};
  {
    await using bin = await openTorchBin(join(reference, "sharded", "pytorch_model-00002-of-00002.bin"));
    let key = 0;
    for (const name of bin.tensors.keys()) storages[key++] = await bin.read(name);
  }
  // The unchanged parts do load: what follows tests damage, not a broken test.
  for (const bytes of [file, binBytes(pickle, storages)]) {
    writeFileSync(path, bytes);
    await using bin = await openTorchBin(path);
    assert.is(bin.tensors.size, 9);
  }
  /** The i-th damaged file: the whole, the directory alone, or the pickle alone in an intact zip file. */
  const damaged = (i: number): Buffer => {
    const random = new Random("damage", i);
    if (i % 3 === 0) return mutate(file, random);
    if (i % 3 === 1)
      return Buffer.concat([file.subarray(0, directory), mutate(file.subarray(directory), random)]);
    return binBytes(mutate(pickle, random), storages);
  };
  // Side by side, so that the waits for files overlap; a hang meets the time limit of the test's process.
  const LANES = 32;
  const peak = process.resourceUsage().maxRSS;
  let loaded = 0;
  let slowest = 0;
  const refusals = new Map<string, number>();
  const lane = async (first: number) => {
    const path = join(folder, `damaged-${first}.bin`);
    for (let i = first; i < 10_000; i += LANES) {
      const bytes = damaged(i);
      writeFileSync(path, bytes);
      const started = performance.now();
      try {
        await using bin = await openTorchBin(path);
        for (const [name, { shape }] of bin.tensors) {
          const read = await bytesOf(bin, name, 1 << 16);
          assert.ok(read.byteLength <= bytes.byteLength, `${name} [${shape}]`);
        }
        loaded++;
      } catch (error) {
        if (!(error instanceof UserError))
          throw new Error(`file ${i} (Random("damage", ${i}))`, { cause: error });
        const { message } = error;
        assert.ok(message.startsWith(path) && !message.includes("\n") && message.length < 1000, message);
        const kind = message
          .slice(path.length)
          .replace(/[0-9]+|"[^"]*"/g, "#")
          .slice(0, 40);
        refusals.set(kind, (refusals.get(kind) ?? 0) + 1);
      }
      slowest = Math.max(slowest, performance.now() - started);
    }
  };
  await Promise.all(Array.from({ length: LANES }, (_, first) => lane(first)));
  const grown = (process.resourceUsage().maxRSS - peak) / 1024;
  console.log(
    `10,000 files: ${loaded} load, ${refusals.size} kinds of refusal, slowest ${Math.round(slowest)} ms, ${Math.round(grown)} MiB more`,
  );
  assert.ok(loaded > 900 && loaded < 8000, `${loaded} load`);
  assert.ok(refusals.size > 50, `${refusals.size} kinds of refusal`);
  assert.ok(slowest < 30_000, `one took ${slowest} ms`);
  assert.ok(grown < 256, `the most memory in use grew by ${grown} MiB`);
});

t.run();
