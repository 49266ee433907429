import { suite } from "uvu";
import * as assert from "uvu/assert";
import { packed } from "../src/ops/packed.ts";
import { type RopeOptions, rope, rotaryFrequencies } from "../src/ops/rope.ts";
import { assertClose, noise } from "./close.ts";
import { assertGradient, dot } from "./finite-difference.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("rope");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** Rotary embedding of rows of `stride` elements in float64; everything else is copied. */
function reference(x: ArrayLike<number>, positions: ArrayLike<number>, options: RopeOptions): Float64Array {
  const { heads, headSize, stride, offset, layout, frequencies, inverse } = options;
  const pairs = frequencies.length;
  const y = Float64Array.from(x);
  for (let row = 0; row < positions.length; row++) {
    for (let head = 0; head < heads; head++) {
      for (let i = 0; i < pairs; i++) {
        const angle = positions[row] * frequencies[i] * (inverse ? -1 : 1);
        const start = row * stride + offset + head * headSize;
        const [first, second] =
          layout === "half" ? [start + i, start + i + pairs] : [start + 2 * i, start + 2 * i + 1];
        y[first] = x[first] * Math.cos(angle) - x[second] * Math.sin(angle);
        y[second] = x[first] * Math.sin(angle) + x[second] * Math.cos(angle);
      }
    }
  }
  return y;
}

const base = { inverse: false, layout: "half" as const };

t("the inverse rotation is the gradient of the reference", () => {
  for (const layout of ["half", "interleaved"] as const) {
    const options = {
      ...base,
      layout,
      heads: 2,
      headSize: 6,
      stride: 14,
      offset: 1,
      frequencies: rotaryFrequencies(4, 10000),
    };
    const positions = [0, 3, 17];
    const [x, dy] = [noise(42, 1), noise(42, 2)];
    const dx = reference(dy, positions, { ...options, inverse: true });
    assertGradient("dx", (x) => dot(reference(x, positions, options), dy), x, dx);
  }
});

const cases: [number[], number, Omit<RopeOptions, "layout" | "inverse">][] = [
  [[0, 0], 0, { heads: 1, headSize: 2, stride: 2, offset: 0, frequencies: rotaryFrequencies(2, 10000) }],
  [[1], 0, { heads: 1, headSize: 2, stride: 2, offset: 0, frequencies: rotaryFrequencies(2, 10000) }],
  // Two pairs: a group when they lie side by side, none when not.
  [[3], 5, { heads: 2, headSize: 8, stride: 24, offset: 4, frequencies: rotaryFrequencies(4, 10000) }],
  [[7, 1, 30], 0, { heads: 3, headSize: 8, stride: 40, offset: 8, frequencies: rotaryFrequencies(8, 10000) }],
  [
    [5, 67],
    11,
    { heads: 12, headSize: 64, stride: 2304, offset: 0, frequencies: rotaryFrequencies(64, 10000) },
  ],
  [[9, 4], 2, { heads: 5, headSize: 34, stride: 211, offset: 31, frequencies: rotaryFrequencies(22, 500) }],
  [
    [20],
    131_060,
    { heads: 2, headSize: 128, stride: 256, offset: 0, frequencies: rotaryFrequencies(64, 1e6) },
  ],
];
for (const layout of ["half", "interleaved"] as const) {
  for (const [lengths, start, shape] of cases) {
    const { heads, headSize, frequencies, stride } = shape;
    t(
      `${layout}, lengths ${lengths} from ${start}, ${heads} heads of ${headSize}, rotating ${2 * frequencies.length}`,
      async () => {
        const positions = lengths.flatMap((length) => Array.from({ length }, (_, i) => start + i));
        const x = noise(positions.length * stride, 1);
        const once = async () => {
          const step = gpu.step("rope");
          const batch = packed(step, lengths, start);
          const results = [false, true].map((inverse) => {
            const tensor = step.upload(x, [positions.length, stride]);
            rope(step, tensor, batch.positions, { ...shape, layout, inverse });
            return step.readFloats(tensor);
          });
          await step.submit();
          return Promise.all(results);
        };
        const [y, back] = await once();
        assertClose("y", y, reference(x, positions, { ...shape, layout, inverse: false }), KERNEL_F32);
        assertClose(
          "inverse",
          back,
          reference(x, positions, { ...shape, layout, inverse: true }),
          KERNEL_F32,
        );
        assert.equal(await once(), [y, back], "two runs differ");
      },
    );
  }
}

t("shapes that do not fit are refused", async () => {
  const step = gpu.step("refused");
  const shape = {
    ...base,
    heads: 2,
    headSize: 8,
    stride: 15,
    offset: 0,
    frequencies: rotaryFrequencies(8, 10000),
  };
  assert.throws(() => rope(step, step.tensor([1, 15]), step.upload(new Uint32Array(1)), shape), /rope of 2/);
  await step.submit();
});

t.run();
