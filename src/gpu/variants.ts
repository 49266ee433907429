import { MATRIX_EXTENTS, MATRIX_LANES, type SubgroupMatrix } from "./subgroup-matrix.ts";
import type { DType } from "./tensor.ts";
import type { Variant } from "./variant.ts";

/** Columns beyond this would need more registers than any GPU has. */
export const LARGEST_HEAD = 256;

/** Sizes that a subgroup can have. */
const SUBGROUPS = [4, 8, 16, 32, 64, 128];

/** Attention by a subgroup of fixed size that shares its loads. */
export function sharedAttention(subgroup: number): Variant & { readonly lanes: number } {
  const lanes = Math.min(16, subgroup);
  return { constants: { KEYS: lanes, LANES: subgroup }, lanes };
}

/** Attention in which each lane reads for itself, `keys` keys at a time. */
export function laneAttention(headSize: number, keys: 1 | 4): Variant {
  return { constants: { HEAD_SIZE: headSize, KEYS: keys, LANES: 32 } };
}

/** How a kernel reads weights of an element type; null: as its file says, f32. Throws for types that hold no weights. */
export function storedWeights(dtype: DType): Variant | null {
  switch (dtype) {
    case "f32":
      return null;
    case "f16":
      return { weights: "f16" };
    case "int8":
      return { weights: "quantized", constants: { BITS: 8 } };
    case "int4":
      return { weights: "quantized", constants: { BITS: 4 } };
    default:
      throw new Error(`${dtype} is no storage of weights`);
  }
}

/** The tile of a kernel that walks the item set: rows times columns / 16 are its lanes. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
}

/** Tiles of item_set_walk_*: queries x items. */
export const WALK_TILES = {
  many: { rows: 64, columns: 64 },
  some: { rows: 32, columns: 128 },
  few: { rows: 8, columns: 128 },
} as const;

/** Tiles of item_set_gradient: the rows that a workgroup owns x the columns that it walks. */
export const GRADIENT_TILES = {
  many: { rows: 32, columns: 64 },
  fewRows: { rows: 8, columns: 128 },
  fewColumns: { rows: 128, columns: 8 },
} as const;

/** A kernel that walks the item set, with this tile and items of this type. */
export function tiled({ rows, columns }: Tile, dtype: DType): Variant {
  return { ...storedWeights(dtype), constants: { ROWS: rows, COLUMNS: columns } };
}

/** Lanes of a subgroup that makes a tile in their registers: 4 columns each. */
export const SHARING_LANES = [4, 8, 16] as const;
/** The lanes of a tile on an adapter that shares registers across subgroups of this size (Gpu.sharedSubgroup); 0: too few. */
export function sharingLanes(sharedSubgroup: number): 0 | (typeof SHARING_LANES)[number] {
  return SHARING_LANES.findLast((lanes) => lanes <= sharedSubgroup) ?? 0;
}

/** Rows of that tile. */
export const SHARING_ROWS = { many: 32, few: 8 } as const;

/** product_rows or item_set_rows_*: subgroups of this many lanes, with tiles of this many rows. */
export function sharing(lanes: number, rows: number, dtype: DType): Variant {
  const stored = storedWeights(dtype);
  const constants = { ...stored?.constants, LANES: lanes, ROWS: rows };
  return { ...stored, constants, lanes: Math.min(lanes, rows) };
}

/** item_set_list by workgroups of this many lanes. */
export function listing(lanes: number, dtype: DType): Variant {
  return { ...storedWeights(dtype), constants: { LANES: lanes, FEW: Math.min(64, lanes) } };
}

/** Lanes of item_set_list on GPUs. */
export const LIST_LANES = 256;

/** A kernel for tensor cores of these extents; where it reads weights, of this type. */
export function onMatrices({ rows, columns, depth, lanes }: SubgroupMatrix, dtype: DType = "f32"): Variant {
  const stored = storedWeights(dtype);
  const constants = { ...stored?.constants, SUBGROUP: lanes, ROWS: rows, COLUMNS: columns, DEPTH: depth };
  return { ...stored, constants };
}

/** Attention on tensor cores takes heads of these sizes: whole matrices, and what workgroup memory holds. */
export const MATRIX_HEADS = [16, 32, 48, 64, 80, 96, 112, 128] as const;

/** Attention on tensor cores, or null where it has no variant: one, two or four lanes must share a row of a matrix. */
export function matrixAttention(matrix: SubgroupMatrix, headSize: number): Variant | null {
  const { rows, lanes } = matrix;
  if (![1, 2, 4].includes(lanes / rows) || !MATRIX_HEADS.some((size) => size === headSize)) return null;
  const { constants } = onMatrices(matrix);
  return { constants: { ...constants, HEAD_SIZE: headSize } };
}

/** Kernels that read a checkpoint's file where it holds another type than F32. */
export const FILES = { F16: { file: "f16" }, BF16: { file: "bf16" } } as const satisfies Record<
  string,
  Variant
>;

/** Kernels that take elements in groups of four. */
export const GROUPS: Variant = { elements: "groups" };

/** A kernel that reads weights of an element type in groups of four. */
export function weightGroups(dtype: DType): Variant {
  return { ...(storedWeights(dtype) ?? { weights: "f32" }), elements: "weight_groups" };
}

const shared = SUBGROUPS.map(sharedAttention);
const perHeadSize = Array.from({ length: LARGEST_HEAD / 4 }, (_, i) => 4 * (i + 1)).flatMap((headSize) => [
  laneAttention(headSize, 1),
  laneAttention(headSize, 4),
]);
const stored = (["f16", "int8", "int4"] as const).map((dtype) => storedWeights(dtype)!);
const tensorCores: readonly SubgroupMatrix[] = MATRIX_EXTENTS.flatMap(([rows, columns, depth]) =>
  MATRIX_LANES.map((lanes) => ({ rows, columns, depth, lanes })),
);
const attentions = tensorCores.flatMap((matrix) =>
  MATRIX_HEADS.flatMap((size) => matrixAttention(matrix, size) ?? []),
);
const [walked, differentiated] = [WALK_TILES, GRADIENT_TILES].map((tiles) =>
  Object.values(tiles).flatMap((tile: Tile) => [tiled(tile, "f32"), tiled(tile, "f16")]),
);

const sharingSubgroups = (dtypes: readonly DType[]) =>
  SHARING_LANES.flatMap((lanes) =>
    Object.values(SHARING_ROWS).flatMap((rows) => dtypes.map((dtype) => sharing(lanes, rows, dtype))),
  );

/**
 * Every variant of a kernel's text that may be asked for. build.mjs reflects each, and fails unless its bindings,
 * scalars and override constants are those of the kernel's descriptor.
 */
export const VARIANTS: Readonly<Record<string, readonly Variant[]>> = {
  adam: [GROUPS],
  add: [GROUPS],
  axpy: [GROUPS],
  column_sum: [GROUPS],
  convert_weights: Object.values(FILES),
  gather_rows: [GROUPS],
  gelu: [GROUPS],
  gelu_gradient: [GROUPS],
  layer_norm_forward: [GROUPS],
  layer_norm_gradient: [GROUPS],
  layer_norm_weight_gradient: [GROUPS],
  relu: [GROUPS],
  relu_gradient: [GROUPS],
  rms_norm_forward: [GROUPS],
  rms_norm_gradient: [GROUPS],
  rms_norm_weight_gradient: [GROUPS],
  scale: [GROUPS],
  scatter_rows: [GROUPS],
  segment_sum: [GROUPS],
  swiglu: [GROUPS],
  swiglu_gradient: [GROUPS],
  attention_forward: perHeadSize,
  attention_dq: perHeadSize,
  attention_dkv: perHeadSize,
  attention_matrix_forward: attentions,
  attention_matrix_dq: attentions,
  attention_matrix_dkv: attentions,
  attention_shared_forward: shared,
  attention_shared_dq: shared,
  attention_shared_dkv: shared,
  product: stored,
  quantize_weights: Object.values(FILES),
  product_matrix: tensorCores.flatMap((matrix) =>
    (["f32", "f16", "int8", "int4"] as const).map((dtype) => onMatrices(matrix, dtype)),
  ),
  limits_matrix: tensorCores.map((matrix) => onMatrices(matrix)),
  product_large: stored,
  product_registers: stored,
  product_rows: sharingSubgroups(["f32", "f16", "int8", "int4"]),
  product_strided: stored,
  embed: [...stored, ...(["f32", "f16", "int8", "int4"] as const).map(weightGroups)],
  item_set_target: stored.slice(0, 1),
  item_set_rank_seen: stored.slice(0, 1),
  item_set_list: [...SHARING_LANES, LIST_LANES].flatMap((lanes) => [
    listing(lanes, "f32"),
    listing(lanes, "f16"),
  ]),
  item_set_walk_lse: walked,
  item_set_walk_rank: walked,
  item_set_walk_best: walked,
  item_set_gradient: differentiated,
  item_set_rows_lse: sharingSubgroups(["f32", "f16"]),
  item_set_rows_rank: sharingSubgroups(["f32", "f16"]),
  item_set_rows_best: sharingSubgroups(["f32", "f16"]),
  item_set_rows_gradient: sharingSubgroups(["f32", "f16"]),
};
