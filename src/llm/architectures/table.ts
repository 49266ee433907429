import type { Architecture } from "./architecture.ts";
import { llama } from "./llama.ts";

/** Every architecture that runs. To add one: a file beside this one, and a line here. */
export const ARCHITECTURES: readonly Architecture[] = [llama];

/** The architecture of a class name in config.json, or undefined. */
export function architectureOfClass(name: string): Architecture | undefined {
  return ARCHITECTURES.find(({ classes }) => classes.includes(name));
}
