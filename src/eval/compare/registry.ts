import { geluCase, swigluCase } from "./activations.ts";
import { adamCase } from "./adam.ts";
import { attentionCase, crossAttentionCase, ropeCase } from "./attention.ts";
import { backboneCase } from "./backbone.ts";
import { iicCase, rankCase } from "./item-set.ts";
import type { Kind } from "./kind.ts";
import { laserStepCase } from "./laser-step.ts";
import { conv1dCase, linearCase } from "./linear.ts";
import { mformerCase } from "./mformer.ts";
import { layerNormCase, rmsNormCase } from "./norms.ts";
import { bert4recCase, sasrecCase } from "./recommenders.ts";
import { aggregateCase, routerCase } from "./router.ts";

/** The kinds of docs/dumps.md and what runs each. */
export const KINDS: Readonly<Record<string, Kind>> = {
  linear: linearCase,
  conv1d: conv1dCase,
  layer_norm: layerNormCase,
  rms_norm: rmsNormCase,
  gelu: geluCase,
  swiglu: swigluCase,
  rope: ropeCase,
  attention: attentionCase,
  cross_attention: crossAttentionCase,
  router: routerCase,
  aggregate: aggregateCase,
  iic: iicCase,
  rank: rankCase,
  adam: adamCase,
  mformer: mformerCase,
  bert4rec: bert4recCase,
  sasrec: sasrecCase,
  backbone: backboneCase,
  laser_step: laserStepCase,
};
