import type { Kernel } from "./kernel.ts";

/** Values of a kernel's `const` declarations, and how often its lines for each lane are repeated. */
export interface Variant {
  readonly constants: Readonly<Record<string, number>>;
  readonly lanes?: number;
}

const made = new Map<string, Kernel>();

/**
 * A kernel under other constants than those of its file. Override constants cannot size an array in registers, and
 * subgroupBroadcast takes only a literal lane: these two are done on the text. The file as it is stays valid WGSL.
 *
 *   const NAME = 64u;              gets the value `constants.NAME` (a u32), when there is one
 *   s[0] = f(0u); // each lane     is repeated `lanes` times with [0] and 0u, [1] and 1u, ...
 */
export function variantOf<K extends Kernel>(kernel: K, { constants, lanes = 1 }: Variant): K {
  let name: string = kernel.name;
  for (const key in constants) name += `,${key}=${constants[key]}`;
  if (lanes > 1) name += `,lanes=${lanes}`;
  const found = made.get(name);
  if (found) return found as K;
  const missing = new Set(Object.keys(constants));
  const lines = kernel.source.split("\n").flatMap((line) => {
    const constant = /^const (\w+) = \d+u;/.exec(line);
    if (constant && missing.delete(constant[1])) return `const ${constant[1]} = ${constants[constant[1]]}u;`;
    if (!line.endsWith("// each lane")) return line;
    return Array.from({ length: lanes }, (_, lane) =>
      line.replaceAll("[0]", `[${lane}]`).replaceAll(" 0u", ` ${lane}u`),
    );
  });
  if (missing.size) throw new Error(`${kernel.name} has no constant ${[...missing].join(", ")}`);
  const variant = { ...kernel, name, source: lines.join("\n") };
  made.set(name, variant);
  return variant;
}
