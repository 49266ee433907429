import { Gpu } from "../src/gpu/device.ts";

/** The adapter of the tests, with every arena tensor poisoned, so that a read of what nobody wrote shows as NaN. */
export function openTestGpu(options: { maxBindingBytes?: number } = {}): Promise<Gpu> {
  return Gpu.open({ poison: true, ...options });
}
