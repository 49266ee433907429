/**
 * Products on tensor cores. Packing runs on every adapter; the product where there are subgroup matrices: on a GPU that
 * has them, or Mesa's lavapipe from 25.2 on (test/newer-lavapipe.sh).
 */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { halfToFloat } from "../src/files/half.ts";
import { kernels } from "../src/gpu/kernels.generated.ts";
import type { Step } from "../src/gpu/step.ts";
import { findSubgroupMatrix } from "../src/gpu/subgroup-matrix.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import { variantSource } from "../src/gpu/variant.ts";
import { onMatrices } from "../src/gpu/variants.ts";
import { packWeights } from "../src/llm/weight-stream.ts";
import { gelu, geluGradient, swiglu, swigluGradient } from "../src/ops/activation.ts";
import { layerNorm, rmsNorm } from "../src/ops/norm.ts";
import { packRows, type RowSource } from "../src/ops/pack-rows.ts";
import { packed as sequencesOf } from "../src/ops/packed.ts";
import { chooseProduct } from "../src/ops/product-choice.ts";
import { rope, ropeAngles, rotaryFrequencies } from "../src/ops/rope.ts";
import { assertClose, noise, relativeError } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import { describeProduct, type ProductCase } from "./product-case.ts";
import { checkMatrixProduct, packedRow, runMatrix } from "./product-matrix-case.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const BARRIER = "workgroupBarrier();";

const t = suite("products on tensor cores");
const gpu = await openTestGpu();
t.after(() => gpu.close());

async function packOnGpu(a: Float32Array<ArrayBuffer>, rows: number, width: number, margin: number) {
  const step = gpu.step("pack");
  const source = { form: "plain", a: step.upload(a), lda: width + margin, offset: margin } as const;
  const result = packRows(step, source, { first: 0, rows, width });
  const words = step.read(result.packed);
  const scales = step.readFloats(result.scales);
  await step.submit();
  return { words: (await words) as Uint32Array, scales: await scales };
}

for (const [rows, width, margin] of [
  [1, 1, 0],
  [3, 31, 0],
  [5, 64, 4],
  [2, 193, 3],
  [70, 33, 1],
]) {
  t(`packing [${rows}, ${width}], margin ${margin}: f16 of each element over a power of two`, async () => {
    const pitch = width + margin;
    const a = noise(margin + rows * pitch, 7);
    // Rows of every magnitude that f32 has; subnormal numbers may be flushed to zero.
    const magnitudes = [1, 1e-30, 3e37, 1e-3, 1e-33];
    for (let i = 0; i < rows; i++)
      for (let k = 0; k < width; k++) a[margin + i * pitch + k] *= magnitudes[i % magnitudes.length];
    const { words, scales } = await packOnGpu(a, rows, width, margin);
    const perRow = words.length / rows;
    assert.is(perRow, 16 * Math.ceil(width / 32));
    for (let i = 0; i < rows; i++) {
      const expected = packedRow(a.slice(margin + i * pitch, margin + i * pitch + width));
      assert.is(scales[i], expected.scale, `scale of row ${i}`);
      const got = Array.from({ length: 2 * perRow }, (_, k) =>
        halfToFloat((words[i * perRow + (k >> 1)] >>> (16 * (k & 1))) & 0xffff),
      );
      assert.equal(got.slice(0, width), expected.values, `row ${i}`);
      assert.ok(
        got.slice(width).every((x) => x === 0),
        `zeros after row ${i}`,
      );
    }
  });
}

t(
  "a row of zeros packs to zeros; one with NaN or infinity makes NaN, and its neighbours do not",
  async () => {
    const a = new Float32Array(4 * 40).fill(1);
    a.fill(0, 0, 40);
    a[40 + 39] = Number.NaN;
    a[80] = Number.NEGATIVE_INFINITY;
    const { words, scales } = await packOnGpu(a, 4, 40, 0);
    assert.ok(words.subarray(0, 32).every((word) => word === 0));
    assert.ok(scales[0] > 0 && Number.isFinite(scales[0]));
    assert.ok(Number.isNaN(scales[1]) && Number.isNaN(scales[2]));
    assert.is(scales[3], 2 ** -14);
  },
);

/** Rows [3, 8) of what a source makes, packed by the fused form and by its own kernel and "plain". */
async function bothWays(
  width: number,
  make: (step: Step) => {
    readonly source: RowSource;
    readonly x: Tensor;
    readonly statistics?: readonly Tensor[];
  },
) {
  const step = gpu.step("fused packing");
  const { source, x, statistics = [] } = make(step);
  const range = { first: 3, rows: 5, width };
  const fused = packRows(step, source, range);
  const apart = packRows(step, { form: "plain", a: x, lda: width, offset: 0 }, range);
  const reads = [fused, apart].map(async ({ packed: words, scales }) => {
    const [read, powers] = [step.read(words), step.readFloats(scales)];
    return { words: await read, powers: await powers };
  });
  const kept = statistics.map((tensor) => step.readFloats(tensor));
  await step.submit();
  const [one, other] = (await Promise.all(reads)).map(({ words, powers }) =>
    Float64Array.from({ length: 5 * width }, (_, i) => {
      const k = i % width;
      const word = words[Math.floor(i / width) * (words.length / 5) + (k >> 1)];
      return halfToFloat((word >>> (16 * (k & 1))) & 0xffff) * powers[Math.floor(i / width)];
    }),
  );
  // Sums in another order may round to the next f16.
  assertClose("packed rows", one, other, 2 ** -11);
  return Promise.all(kept);
}

for (const width of [1, 36, 193]) {
  const [a, w, bias, dy] = [9 * width * 2, width, width, 9 * width * 2].map((n, i) => noise(n, 20 + i, 3));

  t(
    `norms made while packing, width ${width}: rows and statistics are those of their own kernels`,
    async () => {
      const rows = a.slice(0, 9 * width);
      const [rstd, expectedRstd] = await bothWays(width, (step) => {
        const [x, weight, own] = [step.upload(rows), step.upload(w), step.upload(new Float32Array(9))];
        const apart = rmsNorm(step, x, weight, 1e-5);
        const source = { form: "rmsNorm", a: x, weight, eps: 1e-5, rstd: own } as const;
        return { source, x: apart.y, statistics: [own, apart.rstd] };
      });
      assertClose("rstd", rstd.slice(3, 8), expectedRstd.slice(3, 8), KERNEL_F32);
      assert.equal(rstd[2], 0, "other rows' statistics are left alone");
      const read = await bothWays(width, (step) => {
        const [x, weight, b] = [step.upload(rows), step.upload(w), step.upload(bias)];
        const [mean, own] = [step.upload(new Float32Array(9)), step.upload(new Float32Array(9))];
        const apart = layerNorm(step, x, weight, b, 1e-5);
        const source = { form: "layerNorm", a: x, weight, bias: b, eps: 1e-5, mean, rstd: own } as const;
        return { source, x: apart.y, statistics: [mean, apart.mean, own, apart.rstd] };
      });
      for (const i of [0, 2])
        assertClose("statistics", read[i].slice(3, 8), read[i + 1].slice(3, 8), KERNEL_F32);
    },
  );

  t(`activations made while packing, width ${width}`, async () => {
    await bothWays(width, (step) => {
      const up = step.upload(a, [9, 2 * width]);
      return { source: { form: "swiglu", a: up }, x: swiglu(step, up) };
    });
    await bothWays(width, (step) => {
      const up = step.upload(a.slice(0, 9 * width), [9, width]);
      return { source: { form: "gelu", a: up }, x: gelu(step, up, "tanh") };
    });
    await bothWays(2 * width, (step) => {
      const up = step.upload(a, [9, 2 * width]);
      const gradient = step.upload(dy.slice(0, 9 * width), [9, width]);
      return { source: { form: "swigluGradient", a: up, gradient }, x: swigluGradient(step, gradient, up) };
    });
    await bothWays(width, (step) => {
      const up = step.upload(a.slice(0, 9 * width), [9, width]);
      const gradient = step.upload(dy.slice(0, 9 * width), [9, width]);
      return {
        source: { form: "geluGradient", a: up, gradient },
        x: geluGradient(step, gradient, up, "tanh"),
      };
    });
  });
}

for (const layout of ["half", "interleaved"] as const) {
  for (const [heads, others, headSize, rotated] of [
    [1, 0, 2, 2],
    [3, 2, 16, 12],
    [2, 1, 64, 64],
  ]) {
    t(`${heads} heads of ${headSize} rotated back while packing, ${layout}, ${rotated} turned`, async () => {
      const width = (heads + others) * headSize;
      const values = noise(9 * width, 30, 3);
      await bothWays(width, (step) => {
        const { positions } = sequencesOf(step, [4, 5], 7);
        const rotation = { layout, frequencies: rotaryFrequencies(rotated, 10000) };
        const [a, x] = [step.upload(values, [9, width]), step.upload(values, [9, width])];
        rope(step, x, positions, { ...rotation, heads, headSize, stride: width, offset: 0, inverse: true });
        const angles = ropeAngles(step, positions, rotation.frequencies);
        const turnedWidth = heads * headSize;
        return { source: { form: "turnedBack", a, angles, layout, headSize, turnedWidth }, x };
      });
    });
  }
}

t("matrices are used with f32 sums and subgroups of one size only, the larger ones first", () => {
  const features = new Set(["shader-f16", "subgroups", "chromium-experimental-subgroup-matrix"]);
  const config = (resultComponentType: string, M: number, N: number, K: number) => ({
    componentType: "f16",
    resultComponentType,
    M,
    N,
    K,
  });
  const nvidia = {
    subgroupMinSize: 32,
    subgroupMaxSize: 32,
    subgroupMatrixConfigs: [config("f16", 16, 16, 16), config("f32", 16, 8, 8), config("f32", 16, 16, 16)],
  };
  assert.equal(findSubgroupMatrix(features, nvidia), { rows: 16, columns: 16, depth: 16, lanes: 32 });
  assert.is(findSubgroupMatrix(new Set(["subgroups"]), nvidia), null);
  assert.is(findSubgroupMatrix(features, { ...nvidia, subgroupMinSize: 16 }), null);
  const sums16 = { ...nvidia, subgroupMatrixConfigs: [config("f16", 16, 16, 16)] };
  assert.is(findSubgroupMatrix(features, sums16), null);
  const apple = { ...nvidia, subgroupMatrixConfigs: [config("f32", 8, 8, 8)] };
  assert.equal(findSubgroupMatrix(features, apple), { rows: 8, columns: 8, depth: 8, lanes: 32 });
  const lavapipe = { ...apple, subgroupMinSize: 16, subgroupMaxSize: 16 };
  assert.is(findSubgroupMatrix(features, lavapipe, true), null, "lavapipe crashes with 16 lanes");
  const narrow = { ...apple, subgroupMinSize: 8, subgroupMaxSize: 8 };
  assert.equal(findSubgroupMatrix(features, narrow, true), { rows: 8, columns: 8, depth: 8, lanes: 8 });
});

t("tensor cores take stored weights and rows enough; what is trained stays f32 unless f16 is allowed", () => {
  const adapter = { sharedSubgroup: 0, subgroupMatrix: { rows: 16, columns: 16, depth: 16, lanes: 32 } };
  const traits = { m: 32, n: 64, k: 64, transposeA: false, groupsOfFour: true, stored: "f16" } as const;
  assert.is(chooseProduct(traits, adapter).kernel, "matrix");
  assert.is(chooseProduct({ ...traits, stored: "int4" }, adapter).kernel, "matrix");
  assert.is(chooseProduct({ ...traits, m: 31 }, adapter).kernel, "tile");
  assert.is(chooseProduct({ ...traits, stored: "f32" }, adapter).kernel, "tile");
  assert.is(chooseProduct({ ...traits, stored: "f32", half: true }, adapter).kernel, "matrix");
  const gradient = { ...traits, m: 768, n: 768, k: 4096, transposeA: true, stored: "f32" } as const;
  assert.is(chooseProduct(gradient, adapter).kernel, "tile");
  const half = chooseProduct({ ...gradient, half: true }, adapter);
  assert.ok(
    half.kernel === "matrix" && half.splits === 4,
    "36 tiles are made in parts, for 128 multiprocessors",
  );
  assert.is(chooseProduct({ ...gradient, k: 31, half: true }, adapter).kernel, "tile", "too few tokens");
  assert.is(chooseProduct(traits, { ...adapter, subgroupMatrix: null }).kernel, "tile");
});

const matrix = gpu.offeredMatrix;
if (!matrix) console.log(`SKIPPED: the product itself, ${gpu.adapterName} has no subgroup matrices`);

const shapes = [
  [32, 1, 1],
  [33, 7, 9],
  [40, 72, 64],
  [64, 64, 32],
  [67, 36, 172],
  [131, 197, 65],
  [127, 129, 257],
  // Two bands of packed rows.
  [70, 5, 140_000],
] as const;
/** The longest extents of real layers; their references take seconds. */
const long = [
  [8191, 36, 40],
  [33, 27392, 36],
] as const;

for (const storage of ["f32", "f16", "int8", "int4"] as const) {
  for (const orientation of ["A B^T", "A B"] as const) {
    const some = storage === "f16" ? [...shapes, ...long] : shapes;
    for (const [i, shape] of (matrix ? some : []).entries()) {
      const c: ProductCase = {
        shape,
        orientation,
        storage,
        half: storage === "f32",
        bias: i % 2 === 0,
        residual: i % 3 === 0,
        accumulate: i % 4 === 1,
        margin: i % 2 ? 0 : i,
      };
      t(describeProduct(c), () => checkMatrixProduct(gpu, matrix!, c));
    }
  }
}

const gradients = [
  [1, 1, 32],
  [9, 7, 33],
  [72, 40, 64],
  [131, 65, 197],
  // In parts: 2 and 8 of them.
  [36, 129, 700],
  [5, 6, 2100],
] as const;

for (const [i, shape] of (matrix ? gradients : []).entries()) {
  for (const margin of [0, 3]) {
    const c: ProductCase = {
      shape,
      orientation: "A^T B",
      half: true,
      accumulate: i % 2 === 1,
      magnitude: i % 3 === 0 ? 1e-12 : 1,
      margin,
    };
    t(`weight gradient: ${describeProduct(c)}`, () => checkMatrixProduct(gpu, matrix!, c));
  }
}

if (matrix) {
  t("rows of any magnitude keep their bits, as gradients need", async () => {
    for (const magnitude of [1e-12, 1, 1e12]) {
      const c: ProductCase = { shape: [35, 40, 96], orientation: "A B", storage: "f16", magnitude };
      const { actual, expected } = await runMatrix(gpu, matrix, c, true);
      assertClose(`magnitude ${magnitude}`, actual, expected, KERNEL_F32);
    }
  });

  t("without a barrier between its subgroups the product is wrong", async () => {
    const [m, n, k] = [67, 72, 96];
    const [a, w] = [noise(m * k, 1), noise(n * k, 2)];
    const weight = gpu.parameter([n, k], "f16", packWeights(w, k, "f16"));
    const pieces = variantSource(kernels.product_matrix.source, onMatrices(matrix, "f16")).split(BARRIER);
    assert.is(pieces.length, 5);
    const run = async (removed: number) => {
      const source = pieces.reduce((left, right, i) => left + (i === removed ? "" : BARRIER) + right);
      const step = gpu.step("barriers");
      const rowsOfA = { form: "plain", a: step.upload(a), lda: k, offset: 0 } as const;
      const { packed: rows, scales } = packRows(step, rowsOfA, { first: 0, rows: m, width: k });
      const c = step.tensor([m, n]);
      step.run(
        { ...kernels.product_matrix, name: `product_matrix without barrier ${removed}`, source },
        {
          bindings: { a: rows, weights: weight, scales, bias: scales, residual: scales, c },
          params: {
            m,
            n,
            k,
            words: rows.shape[1],
            ldb: k,
            ldc: n,
            c_offset: 0,
            added: 0,
            depth: k,
            split_stride: 0,
          },
          overrides: { TRANSPOSE_B: true },
          workgroups: [Math.ceil(n / (8 * matrix.columns)), Math.ceil(m / (8 * matrix.rows))],
        },
      );
      const read = step.readFloats(c);
      await step.submit();
      return read;
    };
    const expected = await run(0);
    // The other two keep the lanes of one subgroup apart, which lavapipe runs in lockstep: nothing can show there.
    for (const removed of [1, 2]) {
      const error = relativeError(await run(removed), expected);
      assert.ok(!(error <= KERNEL_F32), `barrier ${removed} makes no difference`);
    }
    gpu.release(weight);
  });
}

t.run();
