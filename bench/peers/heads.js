// @ts-check
/** Rows with their heads side by side, [sequences * length, heads * headSize], to [sequences, heads, length, headSize] and back. */

/** @typedef {{ sequences: number, length: number, heads: number, headSize: number }} Layout */

/** @type {(layout: Layout, visit: (row: number, head: number) => void) => void} */
function pairs({ sequences, length, heads, headSize }, visit) {
  for (let s = 0; s < sequences; s++)
    for (let t = 0; t < length; t++)
      for (let h = 0; h < heads; h++)
        visit(((s * length + t) * heads + h) * headSize, ((s * heads + h) * length + t) * headSize);
}

/** @type {(values: Float32Array, layout: Layout) => Float32Array} */
export function byHead(values, layout) {
  const result = new Float32Array(values.length);
  pairs(layout, (row, head) => result.set(values.subarray(row, row + layout.headSize), head));
  return result;
}

/** @type {(values: Float32Array, layout: Layout) => Float32Array} */
export function byRow(values, layout) {
  const result = new Float32Array(values.length);
  pairs(layout, (row, head) => result.set(values.subarray(head, head + layout.headSize), row));
  return result;
}

/** A matrix [rows, columns] transposed. @type {(values: Float32Array, rows: number) => Float32Array} */
export function transposed(values, rows) {
  const columns = values.length / rows;
  const result = new Float32Array(values.length);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) result[c * rows + r] = values[r * columns + c];
  return result;
}
