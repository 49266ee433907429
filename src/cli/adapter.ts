import { Option } from "commander";
import { Gpu } from "../gpu/device.ts";

/** The flag that every computing command has. */
export function adapterOption(): Option {
  return new Option("--adapter <name>", "which GPU: auto, gpu, lavapipe, swiftshader, or part of a name").env(
    "LASER_ADAPTER",
  );
}

/** Opens the GPU and says on stderr which it is; for software adapters, that it is slow and what is faster. */
export async function openGpu(adapter: string | undefined): Promise<Gpu> {
  const gpu = await Gpu.open({ adapter });
  console.error(gpu.notice ?? `Computing on ${gpu.adapterName}.`);
  return gpu;
}
