import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { fillZero } from "./fill.ts";
import { gradientSlabs, gradientTile, scoreKernel } from "./item-set-choice.ts";
import { extents, itemWindows } from "./item-set-windows.ts";
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
 * respect to h: returns dh [B, d]; with `into` also dItems and dBias, for tied embeddings. One kernel makes the scores again
 * tile by tile and multiplies their gradient with the items, and, when the items train, a second run of it with the hidden
 * states. The slabs' partial sums are added in order, so a run repeats bit for bit.
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
  // The gradient of f16 items is f32 and cut in the same places.
  const limit = into && items.dtype === "f16" ? step.maxBindingBytes / 2 : step.maxBindingBytes;
  for (const window of itemWindows(items, limit)) {
    gradient(step, inputs, window, "queries", dh, null, window.from > 0);
    if (!into) continue;
    const { dItems, dBias, accumulate } = into;
    const rows = (whole: Tensor) => (window.tensor === items ? whole : whole.rows(window.from, window.to));
    gradient(step, inputs, window, "items", rows(dItems), dBias && rows(dBias), accumulate);
  }
  return dh;
}

/** out [rows, width] (+)= the part of a window of the items in the gradient of the queries or of these items. */
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
  const tile = gradientTile(queries, width, of, step.sharedSubgroup);
  const { slabs, slab } = gradientSlabs(owned, walked, tile, 4 * width, step.maxBindingBytes);
  const whole = slabs === 1;
  const sums = whole ? out : step.tensor([slabs, owned, width]);
  // A kernel may not bind a buffer for writing twice, so there is a place for the gradient that is not asked for.
  const biasSums = whole && dBias ? dBias : step.tensor(dBias ? [slabs, owned] : [1]);
  // The bits of the kernel's constants BIAS, BIAS_GRADIENT and ACCUMULATE.
  const options = (bias ? 1 : 0) | (dBias ? 2 : 0) | (accumulate && whole ? 4 : 0);
  step.run(scoreKernel(tile, tensor.dtype, kernels.item_set_gradient, kernels.item_set_rows_gradient), {
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
    workgroups: [Math.ceil(owned / tile.owned), slabs],
    cost: { flops: (4 * width + 5) * queries * items, bytes: 2 * tensor.bytes + 8 * queries * width },
  });
  if (!whole) {
    add(step, sums, out, accumulate);
    if (dBias) add(step, biasSums, dBias, accumulate);
    step.free(sums);
  }
  if (biasSums !== dBias) step.free(biasSums);
}

/** out (+)= the sum of partials [slabs, ...] over the slabs, in order. */
function add(step: Step, partials: Tensor, out: Tensor, accumulate: boolean): void {
  const [splits] = partials.shape;
  step.run(kernels.product_sum, {
    bindings: { partials, c: out },
    params: { size: out.size, splits },
    overrides: { ACCUMULATE: accumulate },
    workgroups: gridOf(Math.ceil(out.size / 64)),
    cost: { flops: partials.size, bytes: partials.bytes + out.bytes },
  });
}
