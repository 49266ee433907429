import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { variantOf } from "../gpu/variant.ts";
import { sharing, tiled } from "../gpu/variants.ts";
import { fillZero } from "./fill.ts";
import {
  gradientSlabs,
  gradientTile,
  type ScoreTile,
  scoreTile,
  subgroupGradientSlabs,
} from "./item-set-choice.ts";
import { extents, itemWindows } from "./item-set-windows.ts";
import { sumSlabs } from "./slab-sum.ts";
import type { Window } from "./windows.ts";

/** Where crossEntropyGradient writes the gradients of a trained item set: dItems [I, d], dBias [I] or null. */
export interface ItemGradients {
  readonly dItems: Tensor;
  readonly dBias: Tensor | null;
  /** Add to what is there instead of overwriting it. */
  readonly accumulate: boolean;
}

/** What both gradients read. */
interface Inputs {
  readonly h: Tensor;
  readonly target: Tensor;
  readonly lse: Tensor;
  readonly dLosses: Tensor;
  readonly scale: number;
  readonly bias: Tensor | null;
}

/**
 * The gradient of sum_b dLosses[b] * losses[b] of `crossEntropy` (the same arguments, its lse, and dLosses [B]) with
 * respect to h: returns dh [B, d]; with `into` also dItems and dBias, for tied embeddings. A kernel makes the scores again
 * tile by tile and multiplies their gradient with the items, and, when the items train, with the hidden states. The slabs'
 * partial sums are added in order, so a run repeats bit for bit.
 */
export function crossEntropyGradient(
  step: Step,
  h: Tensor,
  items: Tensor,
  target: Tensor,
  lse: Tensor,
  dLosses: Tensor,
  scale: number,
  bias: Tensor | null = null,
  into: ItemGradients | null = null,
): Tensor {
  const { queries, width } = extents(h, items);
  const inputs = { h, target, lse, dLosses, scale, bias };
  const dh = step.tensor([queries, width]);
  const tile = scoreTile(queries, width, step.sharedSubgroup);
  // The gradient of f16 items is f32 and cut in the same places.
  const limit = into && items.dtype === "f16" ? step.maxBindingBytes / 2 : step.maxBindingBytes;
  for (const window of itemWindows(items, limit)) {
    const rows = (whole: Tensor) => (window.tensor === items ? whole : whole.rows(window.from, window.to));
    const here = into && {
      dItems: rows(into.dItems),
      dBias: into.dBias && rows(into.dBias),
      accumulate: into.accumulate,
    };
    if (tile.lanes) {
      subgroupGradient(step, inputs, window, tile, dh, here);
      continue;
    }
    gradient(step, inputs, window, "queries", dh, null, window.from > 0);
    if (here) gradient(step, inputs, window, "items", here.dItems, here.dBias, here.accumulate);
  }
  return dh;
}

/** dh (+)= the part of a window of the items, and with `into` the window's own gradients, made in a subgroup. */
function subgroupGradient(
  step: Step,
  { h, target, lse, dLosses, scale, bias }: Inputs,
  { from, to, tensor }: Window,
  tile: ScoreTile,
  dh: Tensor,
  into: ItemGradients | null,
): void {
  const [queries, width] = dh.shape;
  const items = to - from;
  if (queries === 0) {
    if (into && !into.accumulate)
      for (const sum of into.dBias ? [into.dItems, into.dBias] : [into.dItems]) fillZero(step, sum);
    return;
  }
  // The items are one workgroup's own where they have a gradient.
  const blocks = into ? 1 : Math.ceil(queries / tile.rows);
  const { slabs, slab } = subgroupGradientSlabs(items, tile, dh.bytes, step.maxBindingBytes);
  const sums = slabs === 1 ? dh : step.tensor([slabs, queries, width]);
  // A kernel may not bind a buffer for writing twice, so there are places for the gradients that are not asked for.
  const [dItems, dBias] = [into?.dItems ?? step.tensor([4]), into?.dBias ?? step.tensor([4])];
  // The bits of the kernel's constants BIAS, BIAS_GRADIENT, ACCUMULATE and ACCUMULATE_ITEMS.
  const options =
    (bias ? 1 : 0) | (into?.dBias ? 2 : 0) | (slabs === 1 && from > 0 ? 4 : 0) | (into?.accumulate ? 8 : 0);
  const terms = step.tensor([queries, 4], "u32");
  step.run(kernels.item_set_terms, {
    bindings: { targets: target, lse, d_losses: dLosses, terms },
    params: { queries, scale },
    workgroups: [Math.ceil(queries / 64)],
  });
  step.run(variantOf(kernels.item_set_rows_gradient, sharing(tile.lanes, tile.rows, tensor.dtype)), {
    bindings: {
      h,
      weights: tensor,
      bias: bias ?? h,
      terms,
      out: sums,
      d_items: dItems,
      d_bias: dBias,
    },
    params: { queries, items, width, first: from, slab, options, scale },
    overrides: { ITEMS: Boolean(into) },
    workgroups: [blocks, slabs],
    cost: {
      flops: ((into ? 6 : 4) * width + 5) * queries * items,
      bytes: 2 * tensor.bytes + 8 * queries * width,
    },
  });
  step.free(terms);
  if (slabs > 1) {
    sumSlabs(step, sums, dh, from > 0);
    step.free(sums);
  }
  if (!into) step.free(dItems);
  if (!into?.dBias) step.free(dBias);
}

/**
 * out [rows, width] (+)= the part of a window of the items in the gradient of the queries or of these items, made through
 * workgroup memory.
 */
function gradient(
  step: Step,
  { h, target, lse, dLosses, scale, bias }: Inputs,
  { from, to, tensor }: Window,
  of: "queries" | "items",
  out: Tensor,
  dBias: Tensor | null,
  accumulate: boolean,
): void {
  const [, width] = tensor.shape;
  const queries = h.size / width;
  const items = to - from;
  const [owned, walked] = of === "queries" ? [queries, items] : [items, queries];
  if (walked === 0) {
    if (!accumulate) for (const sum of dBias ? [out, dBias] : [out]) fillZero(step, sum);
    return;
  }
  const tile = gradientTile(queries, of);
  const { slabs, slab } = gradientSlabs(owned, walked, tile, 4 * width, step.maxBindingBytes);
  const whole = slabs === 1;
  const sums = whole ? out : step.tensor([slabs, owned, width]);
  // A kernel may not bind a buffer for writing twice, so there is a place for the gradient that is not asked for.
  const biasSums = whole && dBias ? dBias : step.tensor(dBias ? [slabs, owned] : [1]);
  // The bits of the kernel's constants BIAS, BIAS_GRADIENT and ACCUMULATE.
  const options = (bias ? 1 : 0) | (dBias ? 2 : 0) | (accumulate && whole ? 4 : 0);
  step.run(variantOf(kernels.item_set_gradient, tiled(tile, tensor.dtype)), {
    bindings: {
      h,
      weights: tensor,
      bias: bias ?? h,
      targets: target,
      lse,
      d_losses: dLosses,
      out: sums,
      d_bias: biasSums,
    },
    params: { queries, items, width, first: from, slab, options, scale },
    overrides: { ITEMS: of === "items" },
    workgroups: [Math.ceil(owned / tile.rows), slabs],
    cost: { flops: (4 * width + 5) * queries * items, bytes: 2 * tensor.bytes + 8 * queries * width },
  });
  if (!whole) {
    sumSlabs(step, sums, out, accumulate);
    if (dBias) sumSlabs(step, biasSums, dBias, accumulate);
    step.free(sums);
  }
  if (biasSums !== dBias) step.free(biasSums);
}
