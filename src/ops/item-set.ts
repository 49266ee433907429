/** The questions asked of a whole item set, none of which writes the queries x items scores: docs/kernels/item-set.md. */
export { crossEntropy } from "./item-set-cross-entropy.ts";
export { crossEntropyGradient, type ItemGradients } from "./item-set-gradient.ts";
export { normalizeRows, normalizeRowsGradient } from "./item-set-normalize.ts";
export { type RaggedIds, type RankOptions, rankTargets, type TargetRanks } from "./item-set-rank.ts";
export { MOST_TOP_ITEMS, NO_ITEM, type TopItems, type TopOptions, topItems } from "./item-set-top.ts";
