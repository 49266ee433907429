import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import library from "safetensors";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { openSafetensors, type TensorToWrite, writeSafetensors } from "../src/files/safetensors.ts";
import { readSafetensors } from "../src/files/safetensors-whole.ts";
import { UserError } from "../src/files/user-error.ts";
import { repositoryPath } from "./shared.ts";

const t = suite("safetensors");
const folder = mkdtempSync(join(tmpdir(), "safetensors-"));
t.after(() => rmSync(folder, { recursive: true }));
const path = join(folder, "file.safetensors");

/** A file made by hand: header text (or object) and data bytes. */
function craft(header: unknown, dataBytes = 0, announced?: bigint): void {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(announced ?? BigInt(text.byteLength));
  writeFileSync(path, Buffer.concat([length, text, Buffer.alloc(dataBytes)]));
}

/** The one-line message with which a file is refused; it always names the file. */
async function refusal(run: () => Promise<unknown> = () => openSafetensors(path)): Promise<string> {
  try {
    await run();
  } catch (error) {
    assert.instance(error, UserError);
    const { message } = error as Error;
    assert.not.match(message, "\n");
    assert.match(message, folder);
    return message;
  }
  throw new Error("the file was accepted");
}

const tensor = (dtype: string, shape: unknown, start: unknown, end: unknown) => ({
  dtype,
  shape,
  data_offsets: [start, end],
});

const sample: TensorToWrite[] = [
  { name: "bytes", dtype: "U8", shape: [3], data: Uint8Array.of(1, 2, 3) },
  { name: "7", dtype: "F16", shape: [1, 3], data: Uint16Array.of(0x3c00, 0xc000, 0x0001) },
  { name: "half b", dtype: "BF16", shape: [2], data: Uint16Array.of(0x3f80, 0xc000) },
  { name: "__proto__", dtype: "F32", shape: [2, 2], data: Float32Array.of(1.5, -2, 3, 4) },
  { name: "wide", dtype: "F64", shape: [2], data: async () => Float64Array.of(0.1, -1e-3) },
  { name: "scalar", dtype: "I32", shape: [], data: () => Int32Array.of(-5) },
  { name: "empty", dtype: "F32", shape: [0, 4], data: new Float32Array(0) },
  { name: "é\n", dtype: "I64", shape: [1], data: BigInt64Array.of(-1n) },
];

t("writes and reads back every kind of tensor, aligned, with metadata", async () => {
  await writeSafetensors(path, sample, { format: "laser", "step ": "3" });
  const { tensors, metadata } = await readSafetensors(path);
  assert.equal(
    [...metadata],
    [
      ["format", "laser"],
      ["step ", "3"],
    ],
  );
  assert.is(tensors.size, sample.length);
  for (const { name, dtype, shape, data } of sample) {
    const got = tensors.get(name)!;
    const view = typeof data === "function" ? await data() : data;
    assert.is(got.dtype, dtype);
    assert.equal(got.shape, shape);
    assert.equal(got.data, view, name);
  }
  await using file = await openSafetensors(path);
  for (const { dtype, start } of file.tensors.values()) {
    const item = { U8: 1, F16: 2, BF16: 2, F32: 4, I32: 4, F64: 8, I64: 8 }[dtype as string]!;
    assert.is(start % item, 0, dtype);
  }
  assert.equal([...(await file.float32("7"))], [1, -2, 2 ** -24]);
  assert.equal([...(await file.float32("half b"))], [1, -2]);
  assert.equal([...(await file.float32("__proto__"))], [1.5, -2, 3, 4]);
  assert.equal([...(await file.float32("wide"))], [Math.fround(0.1), Math.fround(-1e-3)]);
  assert.match(await refusal(() => file.float32("scalar")), /tensor scalar is I32, expected F32/);
  assert.match(await refusal(() => file.read("missing")), /no tensor missing among the 8/);
});

t("a tensor given in pieces is written as the whole one", async () => {
  const data = Float32Array.from({ length: 9 }, (_, i) => i);
  const tensor = { name: "x", dtype: "F32" as const, shape: [3, 3] };
  await writeSafetensors(path, [{ ...tensor, data }]);
  const whole = readFileSync(path);
  const pieces = (...ends: number[]) => ends.map((end, i) => data.subarray(ends[i - 1] ?? 0, end));
  await writeSafetensors(path, [{ ...tensor, data: () => pieces(2, 2, 9) }]);
  assert.ok(whole.equals(readFileSync(path)));
  for (const wrong of [pieces(2, 8), [data, data], []]) {
    const error = await writeSafetensors(path, [{ ...tensor, data: () => wrong }]).catch((e) => e);
    assert.instance(error, RangeError);
  }
});

t("equal content gives equal bytes", async () => {
  await writeSafetensors(path, sample);
  const first = readFileSync(path);
  await writeSafetensors(path, sample);
  assert.ok(first.equals(readFileSync(path)));
});

t("the npm package safetensors reads what we write", async () => {
  await writeSafetensors(path, sample); // Without metadata, which the package cannot read.
  const other = new library.SafeTensor(new Uint8Array(readFileSync(path)));
  for (const { name, dtype, shape, data } of sample) {
    const given = typeof data === "function" ? await data() : data;
    assert.ok(ArrayBuffer.isView(given), `${name}: the sample holds whole tensors`);
    const view = given as ArrayBufferView;
    assert.is(other.metadata.get(name)?.dtype, dtype);
    assert.equal(other.metadata.get(name)?.shape, shape);
    const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    assert.equal([...other.getTensor(name)], [...bytes], name);
  }
});

t("reads the reference dumps, which Python wrote", async () => {
  const names = readdirSync(repositoryPath("test/reference/dumps")).filter((name) =>
    name.endsWith(".safetensors"),
  );
  assert.ok(names.length > 0, "the reference dumps are missing");
  for (const name of names) {
    const { metadata, tensors } = await readSafetensors(repositoryPath(`test/reference/dumps/${name}`));
    assert.ok(metadata.has("kind"), name);
    assert.ok(tensors.size > 0, name);
  }
});

t("pieces are bounded, hold whole elements, and join to the whole", async () => {
  const data = Float32Array.from({ length: 1001 }, (_, i) => i);
  await writeSafetensors(path, [{ name: "x", dtype: "F32", shape: [1001], data }]);
  await using file = await openSafetensors(path);
  for (const [maxBytes, largest] of [
    [10, 8],
    [1, 4],
    [4096, 4004],
    [1000, 1000],
  ]) {
    const joined: number[] = [];
    for await (const piece of file.chunks("x", maxBytes)) {
      assert.ok(piece.byteLength <= largest && piece.byteLength % 4 === 0);
      joined.push(...new Float32Array(piece.buffer, piece.byteOffset, piece.byteLength / 4));
    }
    assert.equal(joined, [...data]);
  }
});

t("truncated files", async () => {
  assert.match(await refusal(() => openSafetensors(join(folder, "missing"))), /cannot read .*no such file/);
  assert.match(await refusal(() => openSafetensors(folder)), /not a regular file/);
  writeFileSync(path, "");
  assert.match(await refusal(), /0 bytes, too short.*truncated/);
  craft("{}", 0, 1000n);
  assert.match(await refusal(), /header should take 1008 bytes and the file has 10; the file is truncated/);
  craft("{}", 0, 1n << 60n);
  assert.match(await refusal(), /announce a header of 1152921504606846976 bytes \(limit 100000000\)/);

  await writeSafetensors(path, sample);
  const size = readFileSync(path).length;
  truncateSync(path, size - 1);
  assert.match(
    await refusal(),
    /tensor bytes: data_offsets \[\d+, \d+\] lie outside the \d+ bytes.*truncated/,
  );

  // Cut while open: the read fails instead of giving zeros.
  await writeSafetensors(path, sample);
  await using file = await openSafetensors(path);
  truncateSync(path, size - 1);
  assert.match(
    await refusal(() => file.read("bytes")),
    /ends at byte \d+, while being read; the file is truncated/,
  );
});

t("headers that are not what they should be", async () => {
  craft('{"a":');
  assert.match(await refusal(), /the header is not valid JSON/);
  craft("[]");
  assert.match(await refusal(), /not a JSON object/);
  craft(
    '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
  );
  assert.match(await refusal(), /names "a" twice/);
  craft('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,0],"shape":[0]}}');
  assert.match(await refusal(), /names "shape" twice/);
  craft({ __metadata__: { step: 3 } });
  assert.match(await refusal(), /__metadata__ field "step" is not a string/);
  craft({ __metadata__: "x" });
  assert.match(await refusal(), /__metadata__ is not an object/);
  craft({ a: 3 });
  assert.match(await refusal(), /tensor a: its entry is not an object/);
  craft({ a: tensor("F33", [1], 0, 4) }, 4);
  assert.match(await refusal(), /tensor a: unknown dtype "F33", expected one of BOOL/);
  craft({ a: tensor("toString", [1], 0, 4) }, 4);
  assert.match(await refusal(), /tensor a: unknown dtype/);
  for (const shape of [[-1], [1.5], "4", ["4"], null]) {
    craft({ a: tensor("F32", shape, 0, 4) }, 4);
    assert.match(await refusal(), /tensor a: shape .*, expected a list of whole numbers/);
  }
  for (const offsets of [[0], [0, 4, 8], [0, -4], ["0", 4], 4]) {
    craft({ a: { dtype: "F32", shape: [1], data_offsets: offsets } }, 4);
    assert.match(await refusal(), /tensor a: data_offsets .*, expected two whole numbers/);
  }
});

t("offsets that disagree with shapes, the file or each other", async () => {
  craft({ a: tensor("F32", [2, 2], 0, 12) }, 12);
  assert.match(
    await refusal(),
    /tensor a: F32 of shape \[2, 2\] takes 16 bytes, but its data_offsets span 12/,
  );
  craft({ a: tensor("F32", [2], 0, 8), b: tensor("F32", [2], 8, 16) }, 12);
  assert.match(
    await refusal(),
    /tensor b: data_offsets \[8, 16\] lie outside the 12 bytes of data.*truncated/,
  );
  craft({ a: tensor("F32", [1], 4, 0) }, 4);
  assert.match(await refusal(), /tensor a: data_offsets \[4, 0\] lie outside/);
  craft({ a: tensor("F32", [2], 0, 8), b: tensor("F32", [2], 4, 12) }, 12);
  assert.match(await refusal(), /tensors a and b overlap at byte 4 of the data/);
  craft({ a: tensor("F32", [2], 0, 8), b: tensor("F32", [2], 0, 8) }, 8);
  assert.match(await refusal(), /tensors a and b overlap at byte 0/);
  craft({ a: tensor("F32", [1], 0, 4), b: tensor("F32", [1], 8, 12) }, 12);
  assert.match(await refusal(), /4 bytes before tensor b \(byte 8 of the data\) belong to no tensor/);
  craft({ a: tensor("F32", [1], 0, 4) }, 6);
  assert.match(await refusal(), /2 bytes after the last tensor belong to no tensor/);
  craft({ a: tensor("F32", [1e300, 1e300, 0], 0, 0) });
  assert.match(await refusal(), /tensor a: shape/);
});

t("a failed write leaves the old checkpoint readable", async () => {
  await writeSafetensors(path, sample);
  const before = readFileSync(path);
  const full = Object.assign(new Error("write"), { code: "ENOSPC" });
  const broken: TensorToWrite = { name: "x", dtype: "U8", shape: [1], data: () => Promise.reject(full) };
  assert.match(await refusal(() => writeSafetensors(path, [...sample, broken])), /the disk is full/);
  assert.ok(before.equals(readFileSync(path)));
  assert.equal(readdirSync(folder), ["file.safetensors"]);
});

t("defects of the caller are not blamed on the user", async () => {
  const wrong = { name: "x", dtype: "F32", shape: [2], data: new Float32Array(3) } as const;
  for (const tensors of [[wrong], [sample[0], sample[0]], [{ ...sample[0], name: "__metadata__" }]]) {
    const error = await writeSafetensors(path, tensors).catch((e) => e);
    assert.instance(error, RangeError);
  }
});

t.run();
