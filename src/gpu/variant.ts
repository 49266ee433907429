import type { Kernel } from "./kernel.ts";

/** Values of a kernel's `const` declarations, and whether its subgroup lines are taken. */
export interface Variant {
  readonly constants: Readonly<Record<string, number>>;
  /** Take the `//|` lines, written for subgroups of at least `lanes` invocations; 0: the plain lines. */
  readonly subgroup: number;
}

const made = new Map<string, Kernel>();

/**
 * A kernel under other constants than those of its file. Override constants cannot size an array in registers and
 * `enable` lines cannot be switched, so these two are done on the text; the file as it is stays valid WGSL:
 *
 *   const NAME = 64u;        gets the value of `constants.NAME` (a u32), when there is one
 *   code //-                 a line that the subgroup variant leaves out
 *   //| code                 a line that only the subgroup variant has; where it contains `#`, it is repeated with
 *                            # = 0, 1, ... subgroup - 1 (subgroupBroadcast takes only a literal lane)
 */
export function variantOf<K extends Kernel>(kernel: K, { constants, subgroup }: Variant): K {
  let name: string = kernel.name;
  for (const key in constants) name += `,${key}=${constants[key]}`;
  if (subgroup) name += `,subgroup=${subgroup}`;
  const found = made.get(name);
  if (found) return found as K;
  const missing = new Set(Object.keys(constants));
  const lines = kernel.source.split("\n").flatMap((line) => {
    const constant = /^const (\w+) = \d+u;/.exec(line);
    if (constant && missing.delete(constant[1])) return `const ${constant[1]} = ${constants[constant[1]]}u;`;
    if (!subgroup) return line;
    if (line.endsWith("//-")) return [];
    const only = /^(\s*)\/\/\| (.*)$/.exec(line);
    if (!only) return line;
    const code = only[1] + only[2];
    if (!code.includes("#")) return code;
    return Array.from({ length: subgroup }, (_, lane) => code.replaceAll("#", String(lane)));
  });
  if (missing.size) throw new Error(`${kernel.name} has no constant ${[...missing].join(", ")}`);
  const variant = { ...kernel, name, source: lines.join("\n") };
  made.set(name, variant);
  return variant;
}
