import type { Gpu } from "../src/gpu/device.ts";
import { itemSetWay } from "../src/ops/item-set-choice.ts";
import { openTestGpu } from "./gpu.ts";

/** A way of computing over the item set (ops/item-set-choice.ts), and how to open the adapter so that it takes it. */
export interface ItemSetWay {
  readonly name: string;
  readonly open: (options?: { maxBindingBytes?: number }) => Promise<Gpu>;
}

/** The adapter's own way and, on adapters that take panels, the fused one that all others take. */
export async function itemSetWays(): Promise<ItemSetWay[]> {
  const gpu = await openTestGpu();
  const own = itemSetWay(gpu.sharedSubgroup);
  gpu.close();
  const fused: ItemSetWay = {
    name: "fused",
    open: async (options) => {
      const forced = await openTestGpu(options);
      forced.sharedSubgroup = 0;
      return forced;
    },
  };
  return own === "fused" ? [fused] : [{ name: own, open: openTestGpu }, fused];
}
