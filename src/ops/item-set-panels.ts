import type { Step } from "../gpu/step.ts";
import { rowBytes, type Tensor } from "../gpu/tensor.ts";
import { product } from "./product.ts";

/**
 * Elements of the scratch panel [B, items] that stands for the B x I matrix of scores: 8 MiB, whatever B and I are, so
 * that a panel stays in a GPU's (or a CPU's) last cache between the kernels that write and read it.
 */
const PANEL_ELEMENTS = 2 ** 21;

/** Panels begin at multiples of this many items: on a multiple of 256 bytes, in f32 and in f16, for every width. */
const PANEL_UNIT = 128;

/** Items [from, to) of the set, and the rows that hold them. */
export interface ItemPanel {
  readonly from: number;
  readonly to: number;
  readonly items: Tensor;
}

/** Checks that h [B, d] and items [I, d] fit each other; returns B, I and d. */
export function extents(h: Tensor, items: Tensor): { queries: number; count: number; width: number } {
  const [count, width] = items.shape;
  const queries = h.size / width;
  if (items.shape.length !== 2 || !Number.isInteger(queries) || count === 0)
    throw new Error(`hidden states [${h.shape}] do not fit an item set [${items.shape}]`);
  return { queries, count, width };
}

/**
 * The item set [I, d] in panels for B queries, in the order of the items: each small enough for the scratch matrix and
 * for one binding of `limit` bytes at `elementBytes` an element (4 where f16 items have an f32 gradient cut alike).
 * The up to three items past a multiple of four come last and alone where alignment allows it, because products of
 * whole groups of four are faster.
 */
export function itemPanels(
  items: Tensor,
  queries: number,
  limit: number,
  elementBytes = rowBytes(1, items.dtype),
): ItemPanel[] {
  const [count, width] = items.shape;
  const fitting = Math.floor(limit / (width * elementBytes * PANEL_UNIT)) * PANEL_UNIT;
  const wanted = Math.max(1, Math.floor(PANEL_ELEMENTS / Math.max(1, queries) / PANEL_UNIT)) * PANEL_UNIT;
  if (fitting === 0 && count * width * elementBytes > limit)
    throw new Error(`${PANEL_UNIT} items of width ${width} exceed the binding limit of ${limit} bytes`);
  const size = Math.min(fitting || PANEL_UNIT, wanted);
  const cuts: number[] = [];
  for (let from = 0; from < count; from += size) cuts.push(from);
  const whole = Math.floor(count / 4) * 4;
  const aligned = (whole * rowBytes(width, items.dtype)) % 256 === 0;
  if (whole > cuts[cuts.length - 1] && whole < count && aligned) cuts.push(whole);
  cuts.push(count);
  return cuts.slice(1).map((to, i) => {
    const from = cuts[i];
    return { from, to, items: cuts.length === 2 ? items : items.rows(from, to) };
  });
}

/** Columns of the scratch matrix for these panels: a multiple of four, for kernels that read groups of four. */
export function panelPitch(panels: readonly ItemPanel[]): number {
  return Math.ceil(Math.max(...panels.map(({ from, to }) => to - from)) / 4) * 4;
}

/**
 * scores[b, i] = h_b . item_i for the items of a panel; scores [B, pitch]. Every kernel of `product` adds an element's
 * products in order from 0 with fused multiply-adds, so identical rows of items give identical scores, to the bit, in
 * whatever panel and place they lie.
 */
export function panelScores(step: Step, h: Tensor, panel: ItemPanel, scores: Tensor): void {
  const [queries, pitch] = scores.shape;
  const [count, width] = panel.items.shape;
  product(step, h, panel.items, scores, { m: queries, n: count, k: width }, { transposeB: true, ldc: pitch });
}
