import type { Kernel } from "../gpu/kernel.ts";
import { variantOf } from "../gpu/variant.ts";
import { GROUPS } from "../gpu/variants.ts";

/**
 * The kernel that takes elements in groups of four where `length` (of its rows, or of the whole array) is a multiple of
 * four, else one at a time, and the size of a group: its params count groups. Tensors begin at multiples of 256 bytes.
 */
export function inGroups<K extends Kernel>(
  kernel: K,
  length: number,
): { readonly kernel: K; readonly group: 1 | 4 } {
  return length % 4 === 0 ? { kernel: variantOf(kernel, GROUPS), group: 4 } : { kernel, group: 1 };
}
