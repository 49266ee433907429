import type { Architecture } from "./architecture.ts";
import { chatglm2 } from "./chatglm2.ts";
import { gpt2 } from "./gpt2.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen3 } from "./qwen3.ts";

/** Every architecture that runs. To add one: a file beside this one, and a line here. */
export const ARCHITECTURES: readonly Architecture[] = [llama, gpt2, chatglm2, mistral, qwen2, qwen3];

/** The architecture of a class name in config.json, or undefined. */
export function architectureOfClass(name: string): Architecture | undefined {
  return ARCHITECTURES.find(({ classes }) => classes.includes(name));
}
