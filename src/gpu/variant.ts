import groups from "../../kernels/elements/groups.wgsl";
import weight_groups from "../../kernels/elements/weight_groups.wgsl";
import fileBf16 from "../../kernels/file/bf16.wgsl";
import fileF16 from "../../kernels/file/f16.wgsl";
import f16 from "../../kernels/weights/f16.wgsl";
import f32 from "../../kernels/weights/f32.wgsl";
import quantized from "../../kernels/weights/quantized.wgsl";
import type { Kernel } from "./kernel.ts";
import type { DType } from "./tensor.ts";
import { storedWeights, VARIANTS } from "./variants.ts";

/** How a kernel's text differs from its file. Override constants cannot do these things; a build step would hide them. */
export interface Variant {
  /** Values of its `const` declarations. */
  readonly constants?: Readonly<Record<string, number>>;
  /** How often its lines marked "each lane" are repeated. */
  readonly lanes?: number;
  /** The file of kernels/weights that says how its weights are read, in place of its own lines for f32. */
  readonly weights?: keyof typeof PARTS.weights;
  /** The file of kernels/elements that says how many elements it takes at a time, in place of its own lines for one. */
  readonly elements?: keyof typeof PARTS.elements;
  /** The file of kernels/file that says how a checkpoint's file holds weights, in place of its own lines for F32. */
  readonly file?: keyof typeof PARTS.file;
}

const PARTS = {
  weights: { f32, f16, quantized },
  elements: { groups, weight_groups },
  file: { f16: fileF16, bf16: fileBf16 },
};

/**
 * The text of a kernel's variant. Override constants cannot size an array in registers, subgroupBroadcast takes only a
 * literal lane, and the type of a binding depends on how weights are stored or elements grouped: these are done on the
 * text. The file as it is stays valid WGSL.
 *
 *   // begin weights ... // end weights   become the file `weights`, when there is one; `elements` and `file` likewise
 *   const NAME = 64u;                     gets the value `constants.NAME` (a u32), when there is one
 *   s[0] = f(0u); // each lane            is repeated `lanes` times with [0] and 0u, [1] and 1u, ...
 */
export function variantSource(source: string, variant: Variant): string {
  const { constants = {}, lanes = 1, weights, elements, file } = variant;
  let text = source;
  if (weights) text = replacePart(text, "weights", PARTS.weights[weights]);
  if (elements) text = replacePart(text, "elements", PARTS.elements[elements]);
  if (file) text = replacePart(text, "file", PARTS.file[file]);
  const missing = new Set(Object.keys(constants));
  const lines = text.split("\n").flatMap((line) => {
    const constant = /^const (\w+) = \d+u;/.exec(line);
    if (constant && missing.delete(constant[1])) return `const ${constant[1]} = ${constants[constant[1]]}u;`;
    if (!line.endsWith("// each lane")) return line;
    return Array.from({ length: lanes }, (_, lane) =>
      line.replaceAll("[0]", `[${lane}]`).replaceAll(" 0u", ` ${lane}u`),
    );
  });
  if (missing.size) throw new Error(`it has no constant ${[...missing].join(", ")}`);
  return lines.join("\n");
}

function replacePart(source: string, name: keyof typeof PARTS, by: string): string {
  const parts = source.split(new RegExp(`^// (?:begin|end) ${name}\\n`, "m"));
  if (parts.length !== 3) throw new Error(`it has no lines between // begin ${name} and // end ${name}`);
  return parts[0] + by + parts[2];
}

/** A variant's name, as profiles and errors show it: "product,weights=quantized,BITS=4". */
export function variantName(
  kernel: string,
  { constants = {}, lanes = 1, weights, elements, file }: Variant,
): string {
  const parts = [kernel];
  if (weights) parts.push(`weights=${weights}`);
  if (elements) parts.push(elements);
  if (file) parts.push(`file=${file}`);
  for (const key in constants) parts.push(`${key}=${constants[key]}`);
  if (lanes > 1) parts.push(`lanes=${lanes}`);
  return parts.join(",");
}

const made = new Map<string, Kernel>();
let known: Set<string> | undefined;

/**
 * A kernel's variant. Its bindings and scalars are those of the kernel: build.mjs reflects every variant of variants.ts
 * and fails where one differs.
 *
 * @throws Error for a variant that variants.ts does not list, which no build has checked.
 */
export function variantOf<K extends Kernel>(kernel: K, variant: Variant): K {
  const name = variantName(kernel.name, variant);
  const found = made.get(name);
  if (found) return found as K;
  known ??= new Set(
    Object.entries(VARIANTS).flatMap(([of, list]) => list.map((each) => variantName(of, each))),
  );
  if (!known.has(name)) throw new Error(`${name} is not among the variants of src/gpu/variants.ts`);
  const result = { ...kernel, name, source: variantSource(kernel.source, variant) };
  made.set(name, result);
  return result;
}

/** The variant of a kernel that reads weights of this element type. */
export function withWeights<K extends Kernel>(kernel: K, dtype: DType): K {
  const variant = storedWeights(dtype);
  return variant ? variantOf(kernel, variant) : kernel;
}
