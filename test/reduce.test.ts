import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Gpu } from "../src/gpu/device.ts";
import { columnSum, norm, segmentSum, sum, sumSquares } from "../src/ops/reduce.ts";
import { assertClose, noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("reduce");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** Positive on average, so that a sum is of the order of its terms. */
const values = (n: number, seed: number) => noise(n, seed).map((v) => v + 0.5);

for (const [rows, width] of [
  [0, 3],
  [0, 4],
  [1, 1],
  [1, 768],
  [7, 65],
  [256, 64],
  [257, 63],
  [4999, 5],
]) {
  t(`column sum of [${rows}, ${width}]`, async () => {
    const x = values(rows * width, 1);
    const before = noise(width, 2);
    const once = async () => {
      const step = gpu.step("column sum");
      const xt = step.upload(x, [rows, width]);
      const fresh = step.tensor([width]);
      columnSum(step, xt, fresh, false);
      const added = step.upload(before);
      columnSum(step, xt, added, true);
      const reads = [step.readFloats(fresh), step.readFloats(added)];
      await step.submit();
      return Promise.all(reads);
    };
    const [fresh, added] = await once();
    const expected = new Float64Array(width);
    x.forEach((v, i) => {
      expected[i % width] += v;
    });
    assertClose("sum", fresh, expected, KERNEL_F32);
    assertClose(
      "accumulated",
      added,
      expected.map((v, j) => v + before[j]),
      KERNEL_F32,
    );
    assert.equal(await once(), [fresh, added], "two runs differ");
  });
}

/** sum, sum of squares and joint norm of two tensors of n and 7 elements. */
async function totals(device: Gpu, n: number) {
  const step = device.step("totals");
  const x = step.upload(values(n, 1));
  const reads = [
    sum(step, x),
    sumSquares(step, x),
    norm(step, [x]),
    norm(step, [x, step.upload(values(7, 2))]),
  ];
  const results = reads.map((tensor) => step.readFloats(tensor));
  await step.submit();
  return (await Promise.all(results)).map(([value]) => value);
}

for (const n of [0, 1, 63, 4096, 4097, 100_003]) {
  t(`sum, sum of squares, norm of ${n} values`, async () => {
    const x = values(n, 1);
    const squares = Array.from(x).reduce((s, v) => s + v * v, 0);
    const joint = Array.from(values(7, 2)).reduce((s, v) => s + v * v, squares);
    const results = await totals(gpu, n);
    const expected = [
      Array.from(x).reduce((s, v) => s + v, 0),
      squares,
      Math.sqrt(squares),
      Math.sqrt(joint),
    ];
    const names = ["sum", "sum of squares", "norm", "joint norm"];
    for (const [i, name] of names.entries()) assertClose(name, [results[i]], [expected[i]], KERNEL_F32);
    assert.equal(await totals(gpu, n), results, "two runs differ");
  });
}

t("a sum past the binding limit is taken in windows", async () => {
  const small = await openTestGpu({ maxBindingBytes: 70_000 });
  try {
    const results = await totals(small, 100_003);
    for (const [i, value] of (await totals(gpu, 100_003)).entries()) {
      assertClose(`result ${i}`, [results[i]], [value], KERNEL_F32);
    }
  } finally {
    small.close();
  }
});

for (const width of [67, 68]) {
  t(`segment sums of rows of ${width}, with empty segments`, async () => {
    const lengths = [3, 0, 1, 17, 0];
    const x = noise(21 * width, 1);
    const starts = new Uint32Array(lengths.length + 1);
    lengths.forEach((length, s) => {
      starts[s + 1] = starts[s] + length;
    });
    const step = gpu.step("segment sum");
    const result = step.readFloats(segmentSum(step, step.upload(x, [21, width]), step.upload(starts)));
    await step.submit();
    const expected = new Float64Array(lengths.length * width);
    lengths.forEach((_, s) => {
      for (let i = starts[s]; i < starts[s + 1]; i++) {
        for (let j = 0; j < width; j++) expected[s * width + j] += x[i * width + j];
      }
    });
    assertClose("segment sums", await result, expected, KERNEL_F32);
  });
}

t.run();
