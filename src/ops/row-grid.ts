import { gridOf } from "../gpu/grid.ts";

/** Most columns of a row that one workgroup walks over, or groups of four where a kernel takes those. */
const MOST_COLUMNS = 512;

/**
 * How kernels that treat each row of [rows, width] by itself spread them: `lanes` lanes of a workgroup of 64 share a
 * row (few for narrow rows), and a row wider than `span` is split over the grid's z.
 */
export function rowGrid(rows: number, width: number) {
  const lanes = width <= 128 ? 8 : width <= 256 ? 16 : 64;
  const [x, y] = gridOf(Math.ceil((rows * lanes) / 64));
  const workgroups: [number, number, number] = [x, y, Math.ceil(width / MOST_COLUMNS)];
  return { params: { lanes, span: MOST_COLUMNS }, workgroups };
}
