import { open, rename, rm } from "node:fs/promises";
import { fileError } from "./atomic.ts";
import type { TensorToWrite } from "./safetensors-write.ts";
import { ITEM_BYTES, type StoredType } from "./stored-tensor.ts";
import { number, ZipWriter } from "./zip-write.ts";

/** torch's storage class of a dtype; it has none for the others. */
const STORAGES: Partial<Record<StoredType, string>> = {
  F32: "FloatStorage",
  F16: "HalfStorage",
  BF16: "BFloat16Storage",
  F64: "DoubleStorage",
  I64: "LongStorage",
  I32: "IntStorage",
  I16: "ShortStorage",
  I8: "CharStorage",
  U8: "ByteStorage",
  BOOL: "BoolStorage",
};

/**
 * Writes a pytorch_model.bin as torch.save does: a zip file of a pickled state dict and one raw storage a tensor. For
 * checkpoints of random weights in the layout of published ones, and for tests; models to be kept are better written as
 * safetensors. torch-bin.ts reads such files, torch.load too (test/reference/torch_bin.py --check). Tensors are written
 * one after another: only the piece at hand is in memory. The file appears under its name when it is whole.
 *
 * @throws UserError when the file cannot be written; RangeError (a defect of the caller) for data whose size is not
 * that of dtype and shape, or a dtype that torch has no storage for.
 */
export async function writeTorchBin(path: string, tensors: readonly TensorToWrite[]): Promise<void> {
  const partial = `${path}.partial`;
  const pickle = pickleState(tensors);
  try {
    await using file = await open(partial, "w");
    const zip = new ZipWriter(file, path.replace(/^.*[/\\]|\.[^.]*$/g, ""));
    await zip.member("data.pkl", pickle.byteLength, [pickle]);
    for (const [i, { name, dtype, shape, data }] of tensors.entries()) {
      const bytes = sizeOf(shape) * ITEM_BYTES[dtype];
      const given = typeof data === "function" ? await data() : data;
      const written = await zip.member(`data/${i}`, bytes, ArrayBuffer.isView(given) ? [given] : given);
      if (written !== bytes)
        throw new RangeError(`tensor ${name} for ${path}: ${written} bytes of data, expected ${bytes}`);
    }
    await zip.member("version", 2, [Buffer.from("3\n")]);
    await zip.end();
    await file.sync();
  } catch (error) {
    await rm(partial, { force: true }).catch(() => {});
    throw fileError("write", path, error);
  }
  await rename(partial, path);
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

/** Row-major strides. */
function stridesOf(shape: readonly number[]): number[] {
  return shape.map((_, i) => sizeOf(shape.slice(i + 1)));
}

/** The pickle (protocol 2) of OrderedDict(name -> _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())). */
function pickleState(tensors: readonly TensorToWrite[]): Buffer {
  const dict = [global("collections", "OrderedDict"), ")R"];
  const parts = ["\x80\x02", ...dict, "("];
  for (const [i, { name, dtype, shape }] of tensors.entries()) {
    const storageClass = STORAGES[dtype];
    if (!storageClass) throw new RangeError(`tensor ${name}: torch has no storage of ${dtype}`);
    const storage = ["(", text("storage"), global("torch", storageClass), text(String(i)), text("cpu")];
    parts.push(text(name), global("torch._utils", "_rebuild_tensor_v2"), "(");
    parts.push(...storage, whole(sizeOf(shape)), "tQ", whole(0));
    parts.push(tuple(shape), tuple(stridesOf(shape)), "\x89", ...dict, "tR");
  }
  parts.push("u.");
  return Buffer.from(parts.join(""), "latin1");
}

// Opcodes as Latin-1 strings: one character a byte.

function global(module: string, name: string): string {
  return `c${module}\n${name}\n`;
}

function text(string: string): string {
  const bytes = Buffer.from(string, "utf8");
  return `X${little(bytes.byteLength, 4)}${bytes.toString("latin1")}`;
}

function whole(value: number): string {
  return value < 2 ** 31 ? `J${little(value, 4)}` : `\x8a\x08${little(value, 8)}`;
}

function tuple(numbers: readonly number[]): string {
  return `(${numbers.map(whole).join("")}t`;
}

function little(value: number, bytes: number): string {
  return number(value, bytes).toString("latin1");
}
