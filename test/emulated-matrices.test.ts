/**
 * Kernels for tensor cores with every extent and subgroup that they are built for, those of NVIDIA's GPUs among them, on any
 * adapter with f16 and subgroups: the matrices themselves are emulated (test/emulated-matrices.ts).
 */
import { suite } from "uvu";
import { MATRIX_EXTENTS, MATRIX_LANES, type SubgroupMatrix } from "../src/gpu/subgroup-matrix.ts";
import { matrixAttention } from "../src/gpu/variants.ts";
import { checkAttention, describeAttention } from "./attention-matrix-case.ts";
import { checkDecoderOnMatrices } from "./decoder-matrix-case.ts";
import { emulateMatrices } from "./emulated-matrices.ts";
import { openTestGpu } from "./gpu.ts";
import { describeProduct, type ProductCase } from "./product-case.ts";
import { checkMatrixProduct } from "./product-matrix-case.ts";

// On lavapipe vectors of four lanes: the kernels compile in a fifth of the time, and run as fast.
process.env.LP_NATIVE_VECTOR_WIDTH = "128";
const t = suite("emulated matrices");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const { subgroupMinSize = 0 } = gpu.device.adapterInfo;
const able =
  subgroupMinSize >= 4 &&
  ["shader-f16", "subgroups"].every((feature) => gpu.features.has(feature as GPUFeatureName));
if (!able) console.log(`SKIPPED: emulated matrices, ${gpu.adapterName} has no f16, or no subgroups of four`);

const every: SubgroupMatrix[] = MATRIX_EXTENTS.flatMap(([rows, columns, depth]) =>
  MATRIX_LANES.map((lanes) => ({ rows, columns, depth, lanes })),
);
const NVIDIA = { rows: 16, columns: 16, depth: 16, lanes: 32 };
const describe = ({ rows, columns, depth, lanes }: SubgroupMatrix) =>
  `${rows} x ${columns} x ${depth}, subgroups of ${lanes}`;

const products: ProductCase[] = [
  { shape: [131, 197, 65], orientation: "A B^T", storage: "f16", bias: true, margin: 3 },
  { shape: [67, 36, 172], orientation: "A B", storage: "int4", residual: true },
  { shape: [140, 130, 700], orientation: "A^T B", half: true, accumulate: true, margin: 3 },
  { shape: [33, 136, 100], orientation: "A B^T", storage: "int8", residual: true },
];
for (const matrix of able ? every : []) {
  for (const c of matrix.lanes === 32 ? products : products.slice(0, 1)) {
    t(`product, ${describe(matrix)}: ${describeProduct(c)}`, () => {
      emulateMatrices(gpu, matrix);
      return checkMatrixProduct(gpu, matrix, c);
    });
  }
}

/** Sequences shorter than a tile, as long, and longer than what a workgroup owns. */
const few = { heads: 2, keyValueHeads: 1, headSize: 32, causal: true, lengths: [1, 17, 0, 66] };
const attentions = [
  { heads: 4, keyValueHeads: 2, headSize: 32, causal: true, lengths: [1, 2, 65, 17, 0, 130] },
  { heads: 2, keyValueHeads: 1, headSize: 128, causal: true, lengths: [1, 67] },
  { heads: 2, keyValueHeads: 2, headSize: 80, causal: false, lengths: [7, 66] },
];
for (const matrix of able ? every.filter((each) => matrixAttention(each, 32)) : []) {
  for (const c of matrix.rows === 16 && matrix.lanes === 32 ? attentions : [few]) {
    t(`attention, ${describe(matrix)}: ${describeAttention(c)}`, () => {
      emulateMatrices(gpu, matrix);
      return checkAttention(gpu, c);
    });
  }
}

if (able) {
  t(`a whole Llama, ${describe(NVIDIA)}, is the one without matrices`, () => {
    emulateMatrices(gpu, NVIDIA);
    return checkDecoderOnMatrices(gpu, "llama");
  });
}

t.run();
