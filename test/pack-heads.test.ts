/** Heads as f16 for attention on tensor cores, rotated on the way: runs on every adapter, with tensor cores or not. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { halfToFloat } from "../src/files/half.ts";
import { packHeads } from "../src/ops/pack-heads.ts";
import { packed } from "../src/ops/packed.ts";
import { type Rotation, rope, rotaryFrequencies } from "../src/ops/rope.ts";
import { assertClose, noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";

const t = suite("packing heads");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** No kernel reads it here. */
const LAYOUT = { rows: 64 };

interface Case {
  readonly lengths: readonly number[];
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headSize: number;
  readonly rotated: number;
  readonly layout: Rotation["layout"];
}

/** packHeads, and rope in place, read back. `margin`: elements before the queries of each row. */
async function run(
  { lengths, rotated, layout, ...shape }: Case,
  values: Float32Array<ArrayBuffer>,
  margin: number,
) {
  const { heads, keyValueHeads: groups, headSize } = shape;
  const rows = lengths.reduce((sum, length) => sum + length, 0);
  const stride = margin + (heads + 2 * groups) * headSize;
  const step = gpu.step("pack heads");
  const sequences = packed(step, lengths, 3);
  const rotation = { layout, frequencies: rotaryFrequencies(rotated, 10000) };
  const x = step.upload(values, [rows, stride]);
  const part = (before: number) => ({ tensor: x, offset: margin + before * headSize, stride });
  // As head norms leave them: values elsewhere than queries and keys, with rows of their own length.
  const valueStride = groups * headSize + 12;
  const apart = new Float32Array(rows * valueStride);
  for (let row = 0; row < rows; row++) {
    const start = row * stride + margin + (heads + groups) * headSize;
    apart.set(values.subarray(start, start + groups * headSize), row * valueStride + 8);
  }
  const v = margin ? { tensor: step.upload(apart), offset: 8, stride: valueStride } : part(heads + groups);
  const inputs = { q: part(0), k: part(heads), v };
  const rotatedBy = rotated > 0 ? { rotation, positions: sequences.positions } : null;
  const { tensor } = packHeads(step, inputs, rows, shape, LAYOUT, rotatedBy);
  const words = step.read(tensor);
  if (rotatedBy) {
    const options = { ...rotation, heads: heads + groups, headSize, stride, offset: margin, inverse: false };
    rope(step, x, sequences.positions, options);
  }
  const inPlace = step.readFloats(x);
  await step.submit();
  return { words: (await words) as Uint32Array, inPlace: await inPlace, stride, rows };
}

const cases: Case[] = [
  { lengths: [1], heads: 1, keyValueHeads: 1, headSize: 16, rotated: 16, layout: "half" },
  { lengths: [5, 0, 2], heads: 3, keyValueHeads: 1, headSize: 16, rotated: 8, layout: "interleaved" },
  { lengths: [67], heads: 4, keyValueHeads: 2, headSize: 64, rotated: 64, layout: "half" },
  { lengths: [2, 31], heads: 2, keyValueHeads: 2, headSize: 80, rotated: 40, layout: "half" },
  { lengths: [9], heads: 2, keyValueHeads: 1, headSize: 48, rotated: 6, layout: "half" },
  { lengths: [7], heads: 2, keyValueHeads: 1, headSize: 128, rotated: 64, layout: "interleaved" },
  { lengths: [3, 4], heads: 12, keyValueHeads: 12, headSize: 64, rotated: 0, layout: "half" },
];

for (const c of cases) {
  const { heads, keyValueHeads: groups, headSize, lengths, rotated, layout } = c;
  t(`${heads}/${groups} heads of ${headSize}, ${rotated} turned, ${layout}, lengths ${lengths}`, async () => {
    for (const margin of [0, 4]) {
      const total = lengths.reduce((sum, length) => sum + length, 0);
      const all = (heads + 2 * groups) * headSize;
      const values = noise(total * (all + margin), 5, 2);
      const { words, inPlace, stride, rows } = await run(c, values, margin);
      assert.is(words.length, (rows * all) / 2);
      const columns = (values: ArrayLike<number>, from: number, width: number, pitch: number) =>
        Float64Array.from(
          { length: rows * width },
          (_, i) => values[Math.floor(i / width) * pitch + from + (i % width)],
        );
      const halves = Float64Array.from({ length: 2 * words.length }, (_, i) =>
        halfToFloat((words[i >> 1] >>> (16 * (i & 1))) & 0xffff),
      );
      const [wide, narrow] = [heads * headSize, groups * headSize];
      const factor = Math.LOG2E / Math.sqrt(headSize);
      for (const [name, from, width, times] of [
        ["q", 0, wide, factor],
        ["k", wide, narrow, 1],
        ["v", wide + narrow, narrow, 1],
      ] as const) {
        const expected = columns(inPlace, margin + from, width, stride).map((x) => x * times);
        // f16 rounds to 11 bits.
        assertClose(name, columns(halves, from, width, all), expected, 2 ** -11);
        if (rotated === 0) continue;
        const before = columns(values, margin + from, width, stride).map((x) => x * times);
        if (name === "v") assert.equal(expected, before, "values do not turn");
        else assert.not.equal(expected, before, "queries and keys turn");
      }
    }
  });
}

t("heads that attention does not take are refused", async () => {
  const step = gpu.step("refused");
  const sequences = packed(step, [2]);
  const part = { tensor: step.tensor([2, 48]), offset: 0, stride: 48 };
  const shape = { heads: 1, keyValueHeads: 1, headSize: 16 };
  const rotation: Rotation = { layout: "half", frequencies: rotaryFrequencies(18, 10000) };
  const turned = { rotation, positions: sequences.positions };
  const inputs = { q: part, k: part, v: part };
  assert.throws(() => packHeads(step, inputs, 2, shape, LAYOUT, turned), /heads of 16, rotating 18/);
  const odd = { ...inputs, k: { ...part, stride: 46 } };
  assert.throws(() => packHeads(step, odd, 2, shape, LAYOUT, null), /k starts at 0 with rows of 46/);
  await step.submit();
});

t.run();
