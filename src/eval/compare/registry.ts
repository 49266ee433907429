import type { Kind } from "./kind.ts";
import { conv1dCase, linearCase } from "./linear.ts";
import { layerNormCase, rmsNormCase } from "./norms.ts";

/** The kinds of docs/dumps.md and what runs each. */
export const KINDS: Readonly<Record<string, Kind>> = {
  linear: linearCase,
  conv1d: conv1dCase,
  layer_norm: layerNormCase,
  rms_norm: rmsNormCase,
};
