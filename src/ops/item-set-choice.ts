import type { Kernel } from "../gpu/kernel.ts";
import type { DType } from "../gpu/tensor.ts";
import { variantOf } from "../gpu/variant.ts";
import {
  GRADIENT_TILES,
  SHARING_ROWS,
  sharing,
  sharingLanes,
  type Tile,
  tiled,
  WALK_TILES,
} from "../gpu/variants.ts";

/**
 * Which kernels compute losses, ranks and lists over the item set, and in what sizes: the one place where adapters and
 * shapes are told apart. All make scores tile by tile and reduce them in registers; scores are never written. What
 * differs is where a tile's rows and columns are shared, as in product-choice.ts:
 *
 * | adapter                 | width           | kernels           | shared in        | queries x items of a tile          |
 * |-------------------------|-----------------|-------------------|------------------|------------------------------------|
 * | software with subgroups | multiple of 4   | item_set_rows_*   | subgroup         | 8 or 32 x 4 L, L = 4, 8 or 16 lanes|
 * | any other               | any             | item_set_walk_*,  | workgroup memory | WALK_TILES, GRADIENT_TILES         |
 * |                         |                 | item_set_gradient |                  |                                    |
 */
export interface ScoreTile extends Tile {
  /** Lanes of the subgroup that makes the tile; 0: a workgroup through its memory. */
  readonly lanes: number;
}

/** A kernel on this tile: `walk` through workgroup memory, or `rows` in a subgroup. Both have the same interface. */
export function scoreKernel<K extends Kernel>(tile: ScoreTile, dtype: DType, walk: K, rows: K): K {
  return tile.lanes === 0
    ? variantOf(walk, tiled(tile, dtype))
    : variantOf(rows, sharing(tile.lanes, tile.rows, dtype));
}

/** Workgroups that fill a GPU: eight on each of about 128 multiprocessors. */
const GPU_WORKGROUPS = 1024;
/** Fewer where each workgroup of a gradient needs a partial sum of its own. */
const GRADIENT_WORKGROUPS = 512;
/** Workgroups that keep a software adapter's cores busy to the end. */
const SOFTWARE_WORKGROUPS = 16;
/** Bytes of the partial sums of a gradient. */
const MOST_PARTIAL_BYTES = 2 ** 26;
/** Bests of the groups of a chunk, of 12 bytes: 12 MiB. */
const MOST_BESTS = 2 ** 20;
/** WebGPU guarantees this many workgroups along one axis. */
const MOST_PER_AXIS = 65535;

/** How many slabs the columns are cut into, and the columns of each, a multiple of the tile's. */
export interface Slabs {
  readonly slabs: number;
  readonly slab: number;
}

function cut(columns: number, width: number, wanted: number): Slabs {
  const tiles = Math.max(1, Math.ceil(columns / width));
  const each = Math.ceil(tiles / Math.max(1, Math.min(tiles, wanted)));
  return { slabs: Math.ceil(tiles / each), slab: each * width };
}

/** The tile that a subgroup makes for these queries, or null where the item set is walked through workgroup memory. */
function subgroupTile(queries: number, width: number, sharedSubgroup: number): ScoreTile | null {
  const lanes = sharingLanes(sharedSubgroup);
  if (lanes === 0 || width % 4 !== 0) return null;
  const { few, many } = SHARING_ROWS;
  return { lanes, rows: queries <= few ? few : many, columns: 4 * lanes };
}

/** The tile for these queries: rows that no query fills are work for nothing. `sharedSubgroup` is Gpu.sharedSubgroup. */
export function scoreTile(queries: number, width: number, sharedSubgroup: number): ScoreTile {
  const { few, some, many } = WALK_TILES;
  const walk = queries <= few.rows ? few : queries <= some.rows ? some : many;
  return subgroupTile(queries, width, sharedSubgroup) ?? { lanes: 0, ...walk };
}

/** Slabs of `items` items for the log-sum-exp and the ranks. */
export function walkSlabs(queries: number, items: number, { rows, columns, lanes }: ScoreTile): Slabs {
  const workgroups = lanes ? SOFTWARE_WORKGROUPS : GPU_WORKGROUPS;
  return cut(items, columns, Math.ceil(workgroups / Math.max(1, Math.ceil(queries / rows))));
}

/** The tile of the gradient through workgroup memory with respect to the queries ("queries") or to the items. */
export function gradientTile(queries: number, of: "queries" | "items"): Tile {
  const { many, fewRows, fewColumns } = GRADIENT_TILES;
  if (queries > fewRows.rows) return many;
  return of === "queries" ? fewRows : fewColumns;
}

/** Slabs of `columns` columns for a gradient of `rows` rows of `rowBytes` bytes; each slab has a partial sum. */
export function gradientSlabs(
  rows: number,
  columns: number,
  tile: Tile,
  rowBytes: number,
  limit: number,
): Slabs {
  const filling = Math.ceil(GRADIENT_WORKGROUPS / Math.max(1, Math.ceil(rows / tile.rows)));
  return cut(columns, tile.columns, Math.min(filling, fittingSlabs(rows * rowBytes, limit)));
}

/**
 * The same for the gradient in a subgroup, with partial sums of `bytes`. A slab is one workgroup's when the items train,
 * and the same otherwise, so that dh does not depend on whether they do.
 */
export function subgroupGradientSlabs(items: number, tile: ScoreTile, bytes: number, limit: number): Slabs {
  return cut(items, tile.columns, Math.min(SOFTWARE_WORKGROUPS, fittingSlabs(bytes, limit)));
}

function fittingSlabs(bytes: number, limit: number): number {
  return Math.max(1, Math.floor(Math.min(MOST_PARTIAL_BYTES, limit) / Math.max(1, bytes)));
}

/** How top-k groups the items: tiles of a group, and the most items whose groups' bests are held at once. */
export interface Groups {
  readonly tiles: 4 | 16;
  readonly chunk: number;
}

/**
 * Groups of 64 items, or of 16: when 64 would leave the adapter without enough workgroups, and for long lists, whose groups
 * are mostly scored once more.
 */
export function topGroups(
  queries: number,
  items: number,
  k: number,
  { rows, columns, lanes }: ScoreTile,
): Groups {
  const workgroups = Math.ceil(queries / rows) * Math.ceil(items / (16 * columns));
  const least = lanes ? SOFTWARE_WORKGROUPS : GPU_WORKGROUPS / 2;
  const tiles = k > 128 || workgroups < least ? 4 : 16;
  const blocks = Math.floor(MOST_BESTS / Math.max(1, queries) / (columns / 4));
  return { tiles, chunk: Math.max(1, Math.min(MOST_PER_AXIS, blocks)) * tiles * columns };
}
