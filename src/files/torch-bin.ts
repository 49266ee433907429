import type { FileHandle } from "node:fs/promises";
import { kindOf, PickleDict, PickleGlobal, type PickleValue, printable, readPickle } from "./pickle.ts";
import { ITEM_BYTES, type StoredTensor, type StoredType } from "./stored-tensor.ts";
import { openRegular, readFully, TensorFile } from "./tensor-file.ts";
import { UserError } from "./user-error.ts";
import { locateMember, readZipDirectory, type ZipMember } from "./zip.ts";

/** Against files that would have us allocate anything they say; a tensor takes some 200 bytes of pickle. */
const MAX_PICKLE_BYTES = 64 * 2 ** 20;

/** `torch.FloatStorage` and the like: what a storage's elements are. */
const STORAGE_TYPES: ReadonlyMap<PickleGlobal, StoredType> = new Map(
  Object.entries({
    Float: "F32",
    Half: "F16",
    BFloat16: "BF16",
    Double: "F64",
    Long: "I64",
    Int: "I32",
    Short: "I16",
    Char: "I8",
    Byte: "U8",
    Bool: "BOOL",
  } as const).map(([name, dtype]) => [new PickleGlobal(`torch.${name}Storage`), dtype]),
);

/** A storage as the pickle names it; nothing in it is checked yet. */
class Storage {
  constructor(readonly id: PickleValue) {}
}

/** A view of a storage as the pickle names it; nothing in it is checked yet. */
class Tensor {
  constructor(readonly args: readonly PickleValue[]) {}
}

/** Every global that a state dict's pickle may name, and what a call of it is here. */
const GLOBALS = new Map(
  [
    // OrderedDict(): filled by later opcodes.
    new PickleGlobal("collections.OrderedDict", () => new PickleDict()),
    // (storage, offset, size, stride, requires_grad, backward_hooks[, metadata])
    new PickleGlobal("torch._utils._rebuild_tensor_v2", (args) => new Tensor(args)),
    // (tensor, requires_grad, backward_hooks)
    new PickleGlobal("torch._utils._rebuild_parameter", (args) => args[0] ?? null),
    ...STORAGE_TYPES.keys(),
  ].map((global) => [global.name, global]),
);

/**
 * Opens a `pytorch_model.bin`: a state dict (name to tensor) as `torch.save` has written it since 1.6, a zip file of a
 * pickle `NAME/data.pkl` and the raw storages `NAME/data/0`, `NAME/data/1`, ... The pickle is read, never run: see
 * `readPickle`. Only the zip's directory and the pickle are in memory.
 *
 * Tensors may share a storage (tied weights, slices); each must be contiguous in it.
 *
 * @throws UserError naming the file and the tensor: truncated or damaged, saved in another way, an opcode or a global that
 * weights do not need, a tensor that is not contiguous or beyond its storage.
 */
export function openTorchBin(path: string): Promise<TensorFile> {
  return openRegular(path, "a pytorch_model.bin", async (file, fileBytes) => {
    await checkStart(path, file, fileBytes);
    const members = await readZipDirectory(path, file, fileBytes);
    const pickle = pickleMember(path, members);
    const folder = pickle.name.slice(0, -"data.pkl".length);
    await checkByteOrder(path, file, members.get(`${folder}byteorder`));
    if (pickle.bytes > MAX_PICKLE_BYTES) {
      throw new UserError(
        `${path}: its data.pkl takes ${pickle.bytes} bytes (limit ${MAX_PICKLE_BYTES}); expected a state dict`,
      );
    }
    const state = readState(path, await readMember(path, file, pickle));

    // Where each storage begins: its own header is read once, however many tensors lie in it.
    const starts = new Map<string, number>();
    const tensors = new Map<string, StoredTensor>();
    for (const [name, value] of state.entries) {
      const label = printable(String(name));
      if (typeof name !== "string" || !(value instanceof Tensor)) {
        throw new UserError(
          `${path}: entry ${label} is ${kindOf(value)}, expected names and tensors; save model.state_dict() alone`,
        );
      }
      const fail = (what: string, advice = "the file is damaged: download it again") =>
        new UserError(`${path}: tensor ${label}: ${what}; ${advice}`);
      const { key, dtype, elements, offset, shape } = parseTensor(value, fail);
      const member = members.get(`${folder}data/${key}`);
      if (!member) throw fail(`its storage data/${printable(key)} is not in the file`);
      if (member.bytes !== elements * ITEM_BYTES[dtype]) {
        throw fail(
          `its storage data/${key} has ${member.bytes} bytes, expected ${elements} elements of ${dtype}`,
        );
      }
      const storage = starts.get(key) ?? (await locateMember(path, file, member));
      starts.set(key, storage);
      const start = storage + offset * ITEM_BYTES[dtype];
      tensors.set(name, { dtype, shape, start, end: start + sizeOf(shape) * ITEM_BYTES[dtype] });
    }
    return new TensorFile(path, file, tensors);
  });
}

/** The first bytes tell a zip file from what else goes by this name. */
async function checkStart(path: string, file: FileHandle, fileBytes: number): Promise<void> {
  const start = new Uint8Array(Math.min(fileBytes, 4));
  await readFully(file, path, start, 0);
  if (start[0] === 0x80) {
    throw new UserError(
      `${path}: a bare pickle, as torch.save wrote before 1.6, is not read; with a current PyTorch, ` +
        `write it again: torch.save(torch.load(FILE, weights_only=True), FILE), or use the model's safetensors files`,
    );
  }
  if (String.fromCharCode(...start) !== "PK\u0003\u0004") {
    throw new UserError(
      `${path}: not a zip file, which torch.save writes (a Git LFS pointer or a web page in its place?); download it again`,
    );
  }
}

function pickleMember(path: string, members: ReadonlyMap<string, ZipMember>): ZipMember {
  const found = [...members.values()].filter(({ name }) => /^[^/]+\/data\.pkl$/.test(name));
  if (found.length === 1) return found[0];
  throw new UserError(
    `${path}: it holds ${found.length} members NAME/data.pkl, expected one: not a file of torch.save; download it again`,
  );
}

async function checkByteOrder(path: string, file: FileHandle, member: ZipMember | undefined): Promise<void> {
  if (!member) return;
  const order = member.bytes < 16 ? new TextDecoder().decode(await readMember(path, file, member)) : "?";
  if (order !== "little") {
    throw new UserError(
      `${path}: byte order ${printable(order)}, expected little; save it on a little-endian machine`,
    );
  }
}

async function readMember(path: string, file: FileHandle, member: ZipMember): Promise<Uint8Array> {
  const bytes = new Uint8Array(member.bytes);
  await readFully(file, path, bytes, await locateMember(path, file, member));
  return bytes;
}

function readState(path: string, pickle: Uint8Array): PickleDict {
  const state = readPickle(pickle, {
    globals: GLOBALS,
    persistent: (id) => new Storage(id),
    fail: (what, refused) =>
      new UserError(
        refused
          ? `${path}: its pickle asks for ${what}, which weights do not need: refused, it could run code; use the model's safetensors files`
          : `${path}: its pickle is damaged: ${what}; download it again`,
      ),
  });
  if (state instanceof PickleDict) return state;
  throw new UserError(
    `${path}: it holds ${kindOf(state)}, expected a state dict; save model.state_dict() alone`,
  );
}

type Fail = (what: string, advice?: string) => UserError;

/** Checks a tensor of the pickle against the storage that it names. */
function parseTensor(
  tensor: Tensor,
  fail: Fail,
): { key: string; dtype: StoredType; elements: number; offset: number; shape: readonly number[] } {
  const [storage, offset, shape, stride] = tensor.args;
  if (tensor.args.length < 6 || tensor.args.length > 7 || !(storage instanceof Storage)) {
    throw fail("it is not made of a storage, offset, size and stride");
  }
  const { key, dtype, elements } = parseStorage(storage.id, fail);
  if (!isCount(offset)) throw fail(`offset ${kindOf(offset)}, expected a whole number`);
  if (!isCounts(shape)) throw fail("its shape is not a tuple of whole numbers");
  if (!isCounts(stride) || stride.length !== shape.length) {
    throw fail(`its strides are not as many whole numbers as its shape [${shape.join(", ")}] has`);
  }
  const size = sizeOf(shape);
  if (offset + size > elements) {
    throw fail(
      `shape [${shape.join(", ")}] at element ${offset} reaches beyond its storage of ${elements} elements`,
    );
  }
  // Row-major: each stride is the product of the extents after it. The stride of a single row says nothing.
  let expected = 1;
  for (let i = shape.length - 1; i >= 0 && size > 0; i--) {
    if (shape[i] !== 1 && stride[i] !== expected) {
      throw fail(
        `shape [${shape.join(", ")}] with strides [${stride.join(", ")}] is not contiguous`,
        "save it with tensor.contiguous()",
      );
    }
    expected *= shape[i];
  }
  return { key, dtype, elements, offset, shape };
}

/** ("storage", torch.FloatStorage, key, device, elements) */
function parseStorage(id: PickleValue, fail: Fail): { key: string; dtype: StoredType; elements: number } {
  if (!Array.isArray(id) || id.length !== 5 || id[0] !== "storage")
    throw fail("its storage is not one of torch.save");
  const [, type, key, , elements] = id as readonly PickleValue[];
  const dtype = type instanceof PickleGlobal ? STORAGE_TYPES.get(type) : undefined;
  if (!dtype) throw fail(`its storage is of type ${kindOf(type)}`);
  if (typeof key !== "string" || !isCount(elements)) throw fail("its storage has no key or size");
  return { key, dtype, elements };
}

/** No tensor of a model has more; torch itself stops at 64. */
const MAX_DIMENSIONS = 64;

function isCounts(value: PickleValue): value is readonly number[] {
  return Array.isArray(value) && value.length <= MAX_DIMENSIONS && value.every(isCount);
}

function isCount(value: PickleValue): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** Elements of a shape: exact, or so large that no file holds them. */
function sizeOf(shape: readonly number[]): number {
  return shape.includes(0) ? 0 : shape.reduce((product, extent) => product * extent, 1);
}
