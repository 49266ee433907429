import type { Gpu } from "../src/gpu/device.ts";
import { SHARING_LANES } from "../src/gpu/variants.ts";
import { openTestGpu } from "./gpu.ts";

/** A way of computing over the item set (ops/item-set-choice.ts), and how to open the adapter so that it takes it. */
export interface ItemSetWay {
  readonly name: string;
  readonly open: (options?: { maxBindingBytes?: number }) => Promise<Gpu>;
}

const sharing = (name: string, lanes: number): ItemSetWay => ({
  name,
  open: async (options) => {
    const forced = await openTestGpu(options);
    forced.sharedSubgroup = lanes;
    return forced;
  },
});

/**
 * Through workgroup memory, as on GPUs, and, on adapters that share registers, in a subgroup: the adapter's own, or with
 * `narrower` also those of fewer lanes, a workgroup of which is part of a subgroup.
 */
export async function itemSetWays({ narrower = false } = {}): Promise<ItemSetWay[]> {
  const gpu = await openTestGpu();
  const own = gpu.sharedSubgroup;
  gpu.close();
  const lanes = SHARING_LANES.filter((each) => (narrower ? each <= own : each === Math.min(16, own)));
  return [...lanes.map((each) => sharing(`subgroup of ${each}`, each)), sharing("workgroup memory", 0)];
}
