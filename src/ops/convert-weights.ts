import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import { BITS, bytesOf, isQuantized, type QuantizedType, Tensor } from "../gpu/tensor.ts";
import { variantOf } from "../gpu/variant.ts";
import { FILES } from "../gpu/variants.ts";

/** The types in which checkpoints hold weights, by their safetensors names, and their bits. */
export const FILE_BITS = { F32: 32, F16: 16, BF16: 16 } as const;
export type FileType = keyof typeof FILE_BITS;

/** Elements that a lane takes: rows (where they are quantised) and whole tensors are multiples of it. */
export const CONVERTED_TOGETHER = 8;

/** Weights that a file holds one after the other: rows of a matrix. */
export interface FileRows {
  readonly type: FileType;
  readonly rows: number;
  readonly width: number;
}

/** Where they go: the storage of a tensor, from byte `byte` on. */
export interface Place {
  readonly tensor: Tensor;
  readonly byte: number;
  readonly storage: "f32" | "f16" | QuantizedType;
}

/** Where it is said that a number was refused: word `at` of a tensor of u32 becomes 1, and stays as it was otherwise. */
export interface Refusal {
  readonly tensor: Tensor;
  readonly at: number;
}

/**
 * Stores weights as they lie in a file in the storage of their tensor, as `packWeights` (src/llm/weight-stream.ts) does it, to
 * the bit. A number that is not finite there, or a group of quantised ones beyond f16, is refused.
 *
 * @param source their bytes, for Step.copy: a tensor of u32.
 * @param words scratch in which the source fits, u32; not used where the file's type is that of the storage.
 * Needs whole groups of 8: of rows where they are quantised, else of all, at a multiple of 16 bytes.
 */
export function storeWeights(
  step: Step,
  source: Tensor,
  words: Tensor,
  from: FileRows,
  to: Place,
  refusal: Refusal,
): void {
  const { storage } = to;
  const count = from.rows * from.width;
  const grouped = isQuantized(storage) ? from.width : count;
  const bytes = bytesOf([from.rows, from.width], storage);
  const { window, rest } = windowAt(to, bytes);
  if (grouped % CONVERTED_TOGETHER !== 0 || (!isQuantized(storage) && rest % 16 !== 0))
    throw new Error(`weights [${from.rows}, ${from.width}] at byte ${to.byte} are no whole groups`);
  const found = refusal.tensor;
  const at = refusal.at;
  if (from.type.toLowerCase() === storage) {
    const groups = bytes / 16;
    step.copy(source, new Tensor(window.buffer, window.offset + rest, source.shape, "u32", window.bufferId));
    step.run(kernels.check_weights, {
      bindings: { x: window, found },
      params: { count: groups, first: rest / 16, at },
      overrides: { HALVES: storage === "f16" },
      workgroups: gridOf(Math.ceil(groups / CHECKED_TOGETHER / 64)),
      cost: { bytes },
    });
    return;
  }
  const x = new Tensor(words.buffer, words.offset, source.shape, "u32", words.bufferId);
  step.copy(source, x);
  const cost = { bytes: (count * FILE_BITS[from.type]) / 8 + bytes };
  if (isQuantized(storage)) {
    step.run(reading(kernels.quantize_weights, from.type), {
      bindings: { x, y: window, found },
      params: { rows: from.rows, width: from.width, to: rest / 4, at },
      overrides: { BITS: BITS[storage] },
      workgroups: gridOf(Math.ceil((from.rows * Math.ceil(from.width / 128)) / 64)),
      cost,
    });
    return;
  }
  const lanes = count / CONVERTED_TOGETHER;
  step.run(reading(kernels.convert_weights, from.type), {
    bindings: { x, y: window, found },
    params: { count: lanes, to: rest / 16, at },
    overrides: { HALVES: storage === "f16" },
    workgroups: gridOf(Math.ceil(lanes / 64)),
    cost,
  });
}

/** Groups of four words that a lane of check_weights reads. */
const CHECKED_TOGETHER = 4;

/** The kernel that reads this type. */
function reading<K extends typeof kernels.quantize_weights | typeof kernels.convert_weights>(
  kernel: K,
  type: FileType,
): K {
  return type === "F32" ? kernel : variantOf(kernel, FILES[type]);
}

/** The words of a tensor that hold `bytes` at a place, from a binding's alignment on, and where they begin there. */
function windowAt({ tensor, byte }: Place, bytes: number): { window: Tensor; rest: number } {
  const start = tensor.offset + byte;
  const rest = start % 256;
  const words = Math.ceil((rest + bytes) / 4);
  return { window: new Tensor(tensor.buffer, start - rest, [words], "u32", tensor.bufferId), rest };
}
