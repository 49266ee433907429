import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Gpu } from "../src/gpu/device.ts";
import {
  embed,
  embeddingGradient,
  embedPrompt,
  gatherRows,
  PREFIX_ROW,
  SUFFIX_ROW,
  scatterRows,
} from "../src/ops/embedding.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient, dot } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("embedding");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** Row r of a [*, width] matrix. */
const row = (x: Float32Array, r: number, width: number) => Array.from(x.subarray(r * width, (r + 1) * width));

/** n ids below V, some of them often, id 3 most often. */
function someIds(n: number, V: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from(noise(n, 9), (v, i) =>
    i % 3 === 0 ? Math.min(3, V - 1) : Math.floor(Math.abs(v) * V) % V,
  );
}

for (const [V, width, T] of [
  [1, 1, 1],
  [5, 7, 0],
  [17, 63, 40],
  [300, 768, 29],
  // One group of four, and 513: more than one workgroup walks over.
  [3, 4, 5],
  [2, 2052, 3],
]) {
  t(`table [${V}, ${width}], ${T} ids, f32 and f16, to the bit`, async () => {
    // Multiples of 2^-6 below 4 are exact in f16.
    const values = noise(V * width, 1, 4).map((v) => Math.round(v * 64) / 64);
    const ids = someIds(T, V);
    const halves = new Uint16Array(values.length + (values.length % 2));
    values.forEach((v, i) => {
      halves[i] = toHalf(v);
    });
    const half = gpu.parameter([V, width], "f16", new Uint32Array(halves.buffer));
    const step = gpu.step("embed");
    const idTensor = step.upload(ids);
    const y = step.readFloats(embed(step, step.upload(values, [V, width]), idTensor));
    const y16 = step.readFloats(embed(step, half, idTensor));
    await step.submit();
    gpu.release(half);
    const expected = Array.from(ids).flatMap((id) => row(values, id, width));
    assert.equal(Array.from(await y), expected);
    assert.equal(Array.from(await y16), expected);
  });
}

/** The f16 bits of a normal number that f16 holds exactly, or zero. */
function toHalf(v: number): number {
  if (v === 0) return 0;
  const exponent = Math.floor(Math.log2(Math.abs(v)));
  const mantissa = (Math.abs(v) / 2 ** exponent - 1) * 1024;
  return (v < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | mantissa;
}

for (const width of [67, 68]) {
  t(`a prompt takes token, prefix and suffix rows of ${width}; rows that do not exist are NaN`, async () => {
    const [table, prefix, suffix] = [noise(5 * width, 1), noise(4 * width, 2), noise(2 * width, 3)];
    const source = [PREFIX_ROW + 2, PREFIX_ROW + 3, 4, 0, 4, SUFFIX_ROW, SUFFIX_ROW + 1];
    const wrong = [5, PREFIX_ROW + 4, SUFFIX_ROW + 2, PREFIX_ROW + SUFFIX_ROW];
    const step = gpu.step("prompt");
    const tableTensor = step.upload(table, [5, width]);
    const words = step.upload(Uint32Array.from([...source, ...wrong]));
    const tensors = [step.upload(prefix, [4, width]), step.upload(suffix, [2, width])] as const;
    const y = step.readFloats(embedPrompt(step, tableTensor, words, ...tensors));
    const bare = step.readFloats(embedPrompt(step, tableTensor, words, null, null));
    await step.submit();
    const at = (word: number) => {
      if (word >= SUFFIX_ROW) return row(suffix, word - SUFFIX_ROW, width);
      return word >= PREFIX_ROW ? row(prefix, word - PREFIX_ROW, width) : row(table, word, width);
    };
    const values = Array.from(await y);
    assert.equal(values.slice(0, source.length * width), source.flatMap(at));
    assert.ok(values.slice(source.length * width).every(Number.isNaN));
    assert.ok((await bare).subarray(0, 2 * width).every(Number.isNaN));
    assert.equal(row(await bare, 2, width), row(table, 4, width));
  });
}

t("rows are gathered, and scattered back among zeros", async () => {
  for (const [total, width, rows] of [
    [1, 1, [0]],
    [9, 65, [8, 0, 3]],
    [9, 36, [8, 0, 3]],
    [4, 768, []],
  ] as [number, number, number[]][]) {
    const [x, dy] = [noise(total * width, 1), noise(rows.length * width, 2)];
    const step = gpu.step("rows");
    const index = step.upload(Uint32Array.from(rows));
    const y = step.readFloats(gatherRows(step, step.upload(x, [total, width]), index));
    const dx = step.readFloats(scatterRows(step, step.upload(dy, [rows.length, width]), index, total));
    await step.submit();
    assert.equal(
      Array.from(await y),
      rows.flatMap((r) => row(x, r, width)),
    );
    const expected = new Float32Array(total * width);
    rows.forEach((r, i) => {
      expected.set(dy.subarray(i * width, (i + 1) * width), r * width);
    });
    assert.equal(await dx, expected);
  }
});

/** The gradient of sum(embed(table, ids) * dy) in float64. */
function reference(dy: Float32Array, ids: Uint32Array, V: number, width: number): Float64Array {
  const gradient = new Float64Array(V * width);
  ids.forEach((id, i) => {
    for (let j = 0; j < width; j++) gradient[id * width + j] += dy[i * width + j];
  });
  return gradient;
}

t("the reference gradient is the derivative", () => {
  const ids = Uint32Array.from([1, 0, 1, 1]);
  const [table, dy] = [noise(9, 1), noise(12, 2)];
  const loss = (table: Float64Array) =>
    dot(
      Array.from(ids).flatMap((id) => [...table.slice(id * 3, id * 3 + 3)]),
      dy,
    );
  assertGradient("dTable", loss, table, reference(dy, ids, 3, 3));
});

async function gradients(
  device: Gpu,
  dy: Float32Array<ArrayBuffer>,
  ids: Uint32Array,
  V: number,
  width: number,
) {
  const before = noise(V * width, 5);
  const table = device.parameter([V, width], "f32", before);
  const step = device.step("embedding gradient");
  const dyt = step.upload(dy, [ids.length, width]);
  embeddingGradient(step, dyt, ids, table, true);
  const added = step.readFloats(table);
  embeddingGradient(step, dyt, ids, table, false);
  const written = step.readFloats(table);
  await step.submit();
  device.release(table);
  return { before, added: await added, written: await written };
}

for (const [V, width, T] of [
  [1, 1, 1],
  [5, 3, 0],
  [50, 64, 31],
  // Id 3 occurs in more than 128 rows: two stages.
  [50, 67, 1000],
  [50, 68, 1000],
  [1, 5, 257],
]) {
  t(`gradient of a table [${V}, ${width}] from ${T} rows`, async () => {
    const dy = noise(T * width, 2);
    const ids = someIds(T, V);
    const { before, added, written } = await gradients(gpu, dy, ids, V, width);
    const expected = reference(dy, ids, V, width);
    assertClose(
      "added",
      added,
      expected.map((v, i) => v + before[i]),
      KERNEL_F32,
    );
    const occurs = new Set(ids);
    const rows = expected.map((v, i) => (occurs.has(Math.floor(i / width)) ? v : before[i]));
    assertClose("overwritten", written, rows, KERNEL_F32);
    const again = await gradients(gpu, dy, ids, V, width);
    assert.equal([again.added, again.written], [added, written], "two runs differ");
  });
}

for (const width of [65, 68]) {
  t(`a table [1000, ${width}] past the binding limit is taken in windows, to the bit`, async () => {
    const small = await openTestGpu({ maxBindingBytes: 70_000 });
    try {
      const [V, T] = [1000, 250];
      const [table, dy] = [noise(V * width, 1), noise(T * width, 2)];
      const ids = someIds(T, V);
      const results = [];
      for (const device of [gpu, small]) {
        const persistent = device.parameter([V, width], "f32", table);
        const step = device.step("windows");
        const y = step.readFloats(embed(step, persistent, step.upload(Uint32Array.from([...ids, V]))));
        await step.submit();
        device.release(persistent);
        // The last id is past the table: its row of NaN, which equals nothing, is checked apart.
        const rows = await y;
        assert.ok(row(rows, T, width).every(Number.isNaN));
        results.push({ y: rows.slice(0, T * width), ...(await gradients(device, dy, ids, V, width)) });
      }
      assert.equal(results[0], results[1]);
      assert.equal(row(results[0].y, 1, width), row(table, ids[1], width));
    } finally {
      small.close();
    }
  });
}

t("an id past the table is refused by the gradient", async () => {
  const step = gpu.step("refused");
  const [dy, table] = [step.tensor([1, 2]), step.tensor([3, 2])];
  assert.throws(() => embeddingGradient(step, dy, Uint32Array.of(3), table, true), /id 3 .* 3 rows/);
  await step.submit();
});

t.run();
