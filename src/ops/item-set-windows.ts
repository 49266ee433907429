import type { Tensor } from "../gpu/tensor.ts";
import { type Window, windowsOf } from "./windows.ts";

/** Windows of the item set begin at multiples of this many items: aligned addresses in f32 and f16, for every width. */
const WINDOW_UNIT = 128;

/** Checks that h [B, d] and items [I, d] fit each other; returns B, I and d. */
export function extents(h: Tensor, items: Tensor): { queries: number; count: number; width: number } {
  const [count, width] = items.shape;
  const queries = h.size / width;
  if (items.shape.length !== 2 || !Number.isInteger(queries) || count === 0)
    throw new Error(`hidden states [${h.shape}] do not fit an item set [${items.shape}]`);
  return { queries, count, width };
}

/** The item set in windows of at most `limit` bytes, in the order of the items. */
export function itemWindows(items: Tensor, limit: number): Window[] {
  return windowsOf(items, limit, WINDOW_UNIT);
}
