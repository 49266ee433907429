/** Columns as rows of f16, for weight gradients on tensor cores: runs on every adapter, with tensor cores or not. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { floatToHalf, halfToFloat } from "../src/files/half.ts";
import { packColumns } from "../src/ops/pack-columns.ts";
import { noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";

const t = suite("packing columns");
const gpu = await openTestGpu();
t.after(() => gpu.close());

async function pack(a: Float32Array<ArrayBuffer>, rows: number, columns: number, margin: number) {
  const step = gpu.step("pack columns");
  const lda = columns + margin;
  const result = packColumns(step, step.upload(a), { rows, columns, lda, offset: margin });
  const reads = [step.read(result.packed), step.read(result.scales)] as const;
  await step.submit();
  const [words, scales] = await Promise.all(reads);
  const perColumn = words.length / columns;
  assert.is(perColumn, 16 * Math.ceil(rows / 32));
  const halves = (n: number) =>
    Array.from({ length: 2 * perColumn }, (_, m) =>
      halfToFloat((words[n * perColumn + (m >> 1)] >>> (16 * (m & 1))) & 0xffff),
    );
  return { halves, scales: scales as Float32Array };
}

// Rows and columns around the tiles, 64 by 32, and the bands of 128 rows, more of them than lanes that look through them.
for (const [rows, columns, margin] of [
  [1, 1, 0],
  [31, 3, 2],
  [64, 32, 0],
  [65, 33, 1],
  [129, 70, 4],
  [2100, 5, 3],
]) {
  t(
    `[${rows}, ${columns}], margin ${margin}: f16 of each element over its column's power of two`,
    async () => {
      const pitch = columns + margin;
      const a = noise(margin + rows * pitch, 7);
      // Columns of every magnitude that f32 has; subnormal numbers may be flushed to zero.
      const magnitudes = [1, 1e-30, 3e37, 1e-3, 1e-33];
      const at = (m: number, n: number) => margin + m * pitch + n;
      for (let m = 0; m < rows; m++)
        for (let n = 0; n < columns; n++) a[at(m, n)] *= magnitudes[n % magnitudes.length];
      const { halves, scales } = await pack(a, rows, columns, margin);
      for (let n = 0; n < columns; n++) {
        const column = Array.from({ length: rows }, (_, m) => a[at(m, n)]);
        const most = Math.max(...column.map(Math.abs));
        const scale = 2 ** (Math.max(Math.floor(Math.log2(most)), -112) - 14);
        assert.is(scales[n], scale, `scale of column ${n}`);
        const got = halves(n);
        assert.equal(
          got.slice(0, rows),
          column.map((x) => halfToFloat(floatToHalf(x / scale))),
          `column ${n}`,
        );
        assert.ok(
          got.slice(rows).every((x) => x === 0),
          `zeros after column ${n}`,
        );
      }
    },
  );
}

t(
  "a column of zeros packs to zeros; one with NaN or infinity makes NaN, and its neighbours do not",
  async () => {
    const [rows, columns] = [200, 4];
    const a = new Float32Array(rows * columns).fill(1);
    for (let m = 0; m < rows; m++) a[m * columns] = 0;
    a[150 * columns + 1] = Number.NaN;
    a[3 * columns + 2] = Number.NEGATIVE_INFINITY;
    const { halves, scales } = await pack(a, rows, columns, 0);
    assert.ok(halves(0).every((x) => x === 0));
    assert.ok(scales[0] > 0 && Number.isFinite(scales[0]));
    assert.ok(Number.isNaN(scales[1]) && Number.isNaN(scales[2]));
    assert.is(scales[3], 2 ** -14);
  },
);

t.run();
