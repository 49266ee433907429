import { GRADIENT_TILES, type Tile, WALK_TILES } from "../gpu/variants.ts";

/**
 * Which way losses, ranks and lists over the item set are computed, and in what sizes: the one place where adapters and
 * shapes are told apart. `sharedSubgroup` is Gpu.sharedSubgroup, as in product-choice.ts.
 *
 * | adapter                | way    | scores                                                          |
 * |------------------------|--------|-----------------------------------------------------------------|
 * | software with subgroups| panels | up to 2^21 at a time in memory, by the adapter's product kernel |
 * | any other              | fused  | never written: made and reduced tile by tile in registers       |
 *
 * A software adapter pays for its loads and barriers, not for memory traffic: its product kernels have no registers left
 * for a reduction (docs/kernels/item-set.md has the measurement). On a GPU writing and reading the scores costs more
 * than making them when the rows are short.
 */
export function itemSetWay(sharedSubgroup: number): "panels" | "fused" {
  return sharedSubgroup > 0 ? "panels" : "fused";
}

/** Workgroups that fill a GPU: eight on each of about 128 multiprocessors. */
const GPU_WORKGROUPS = 1024;
/** Fewer where each workgroup of a gradient needs a partial sum of its own. */
const GRADIENT_WORKGROUPS = 512;
/** Bytes of those partial sums. */
const MOST_PARTIAL_BYTES = 2 ** 26;
/** (key, id) pairs of the groups of a chunk: 16 MiB. */
const MOST_PAIRS = 2 ** 21;
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

/** The tile for these queries: rows that no query fills are work for nothing. */
export function walkTile(queries: number): Tile {
  if (queries <= WALK_TILES.few.rows) return WALK_TILES.few;
  return queries <= WALK_TILES.some.rows ? WALK_TILES.some : WALK_TILES.many;
}

/** Slabs of `items` items for the log-sum-exp and the ranks. */
export function walkSlabs(queries: number, items: number, { rows, columns }: Tile): Slabs {
  return cut(items, columns, Math.ceil(GPU_WORKGROUPS / Math.max(1, Math.ceil(queries / rows))));
}

/** The tile of the gradient with respect to the queries ("queries") or to the items. */
export function gradientTile(queries: number, of: "queries" | "items"): Tile {
  if (queries > GRADIENT_TILES.fewRows.rows) return GRADIENT_TILES.many;
  return of === "queries" ? GRADIENT_TILES.fewRows : GRADIENT_TILES.fewColumns;
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
  const fitting = Math.floor(Math.min(MOST_PARTIAL_BYTES, limit) / Math.max(1, rows * rowBytes));
  return cut(columns, tile.columns, Math.min(filling, Math.max(1, fitting)));
}

/** How top-k groups the items: tiles of a group, and the most items whose groups' bests are held at once. */
export interface Groups {
  readonly tiles: 4 | 16;
  readonly chunk: number;
}

/**
 * Groups of 64 items, or of 16: when 64 would leave the GPU without enough workgroups, and for long lists, whose groups
 * are all scored once more.
 */
export function topGroups(queries: number, items: number, k: number, { rows, columns }: Tile): Groups {
  const workgroups = Math.ceil(queries / rows) * Math.ceil(items / (16 * columns));
  const tiles = k > 128 || workgroups < GPU_WORKGROUPS / 2 ? 4 : 16;
  const blocks = Math.floor(MOST_PAIRS / Math.max(1, queries) / (columns / 4));
  return { tiles, chunk: Math.max(1, Math.min(MOST_PER_AXIS, blocks)) * tiles * columns };
}
