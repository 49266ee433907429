// The ladders: node bench/ladder.js [--json] [--quick] [--adapter=NAME]
//
// The same work by every version of a kernel family that this adapter can run, from the naive one to the fastest, each
// checked against the first before it is timed (which is itself checked against float64 in a few places). The project
// takes the version that src/ops/product-choice.ts, src/ops/attend.ts and src/llm/decoder-attention.ts name for the adapter; here
// each is asked for.
// The pages of docs/kernels keep the figures.
import { laser, noise, open, quick } from "./harness.js";

const { chooseProduct, crossAttention, crossEntropy, linear } = laser;
const { attendHeads, attendHeadsGradient, headLayoutOf, packHeads } = laser;
const { packed, product, productNaive, selfAttention, selfAttentionGradient } = laser;

const bench = await open("Ladders: every version of a kernel on the same work, f32");
const { gpu } = bench;
const own = gpu.sharedSubgroup;

/** Versions by the subgroup that leads to them, or by their tile: see chooseProduct and layoutOf. */
const PRODUCTS = [
  ["product", 0, "tile"],
  ["product_large", 0, "large"],
  ["product_registers", 4],
  ...(own >= 8 ? [["product_rows / product_columns", own]] : []),
];
const ATTENTION = [["attention_forward", 0], ...(own >= 4 ? [["attention_shared_forward", own]] : [])];

/** Runs `make` as the adapter with this shared subgroup would. */
function as(subgroup, make) {
  gpu.sharedSubgroup = subgroup;
  try {
    return make();
  } finally {
    gpu.sharedSubgroup = own;
  }
}

/** A recording on these tensor cores (null: on none). */
const withMatrix = (matrix, record) => (step) => {
  const before = gpu.subgroupMatrix;
  gpu.subgroupMatrix = matrix;
  try {
    return record(step);
  } finally {
    gpu.subgroupMatrix = before;
  }
};

/** Largest error of an element in f32, of sums of numbers up to 1. */
const F32_TOLERANCE = 1e-3;

/** What a recording computes. */
async function values(record) {
  const step = gpu.step("check");
  const read = step.readFloats(record(step));
  await step.submit();
  return read;
}

/**
 * Times each version of one piece of work. `reference(i)` is element i of the result in float64; without it the versions
 * are held against the first (gradients, whose forward pass was held against float64). `rounded` is the tolerance of versions
 * that round what they multiply to f16.
 */
async function ladder(work, flops, versions, size, reference, rounded = F32_TOLERANCE) {
  let first;
  for (const [name, subgroup, record, matrices = false] of versions) {
    const run = (step) => as(subgroup, () => record(step));
    const tolerance = matrices ? rounded : F32_TOLERANCE;
    const found = await values(run);
    for (let probe = 0; probe < 16 && reference; probe++) {
      const i = (probe * 7919) % size;
      const error = Math.abs(found[i] - reference(i));
      if (!(error < tolerance)) throw new Error(`${work}, ${name}: element ${i} is off by ${error}`);
    }
    first ??= found;
    const off = found.reduce((most, value, i) => Math.max(most, Math.abs(value - first[i])), 0);
    if (!(off < 2 * tolerance)) throw new Error(`${work}, ${name}: off by ${off} from the first version`);
    await bench.run(`${work}: ${name}`, { flops, matrices }, run);
  }
}

/** The product by a version of PRODUCTS: what the adapter would take, but for the tile. */
const by =
  (kernel, a, b, shape, { transposeA = false, transposeB = false }) =>
  (step) => {
    const c = step.tensor([shape.m, shape.n]);
    const traits = { ...shape, transposeA, groupsOfFour: false, stored: b.dtype };
    const { splits } = chooseProduct(traits, { sharedSubgroup: 0, subgroupMatrix: null });
    const choice = kernel && { kernel, splits };
    product(step, a, b, c, shape, { transposeA, transposeB, choice });
    return c;
  };

async function products([m, n, k]) {
  const [x, w, dy] = [noise(m * k, 1), noise(n * k, 2), noise(m * n, 3)];
  const [tx, tw, tdy] = [
    gpu.parameter([m, k], "f32", x),
    gpu.parameter([n, k], "f32", w),
    gpu.parameter([m, n], "f32", dy),
  ];
  const naive = (a, b, shape, options) => (step) => {
    const c = step.tensor([shape.m, shape.n]);
    productNaive(step, a, b, c, shape, options);
    return c;
  };
  const dot = (length, term) => {
    let sum = 0;
    for (let l = 0; l < length; l++) sum += term(l);
    return sum;
  };
  const flops = 2 * m * n * k;
  const name = `M ${m}, W [${n} x ${k}]`;
  const matrix = gpu.offeredMatrix;
  const half = (a, b, shape, options) =>
    withMatrix(matrix, (step) => {
      const c = step.tensor([shape.m, shape.n]);
      product(step, a, b, c, shape, { ...options, half: true });
      return c;
    });
  const versions = (a, b, shape, options) => [
    ["product_naive", own, naive(a, b, shape, options)],
    ...PRODUCTS.map(([what, subgroup, kernel]) => [what, subgroup, by(kernel, a, b, shape, options)]),
    // Below 32 tokens the choice is another.
    ...(matrix && m >= 32
      ? [["product_matrix, mixed precision (tensor cores)", own, half(a, b, shape, options), true]]
      : []),
  ];
  const rung = (work, shape, options, a, b, reference) => {
    const made = versions(a, b, shape, options);
    // Tensor cores round both operands to 11 bits.
    const rounded = 2 ** -11 * Math.sqrt(shape.k);
    return ladder(`${work}, ${name}`, flops, made, shape.m * shape.n, reference, rounded);
  };
  await rung("y = x W^T", { m, n, k }, { transposeB: true }, tx, tw, (i) =>
    dot(k, (l) => x[Math.floor(i / n) * k + l] * w[(i % n) * k + l]),
  );
  await rung("dx = dy W", { m, n: k, k: n }, {}, tdy, tw, (i) =>
    dot(n, (l) => dy[Math.floor(i / k) * n + l] * w[l * k + (i % k)]),
  );
  await rung("dW = dy^T x", { m: n, n: k, k: m }, { transposeA: true }, tdy, tx, (i) =>
    dot(m, (l) => dy[l * n + Math.floor(i / k)] * x[l * k + (i % k)]),
  );
  for (const tensor of [tx, tw, tdy]) gpu.release(tensor);
}

/** Frozen weights in f16: tensor cores multiply them where there are any, and round the rows of x to f16. */
async function frozenProduct([m, n, k]) {
  const x = noise(m * k, 1);
  const w = noise(n * k, 2).map((value) => laser.halfToFloat(laser.floatToHalf(value)));
  const tx = gpu.parameter([m, k], "f32", x);
  const tw = gpu.parameter([n, k], "f16", laser.packWeights(w, k, "f16"));
  const shape = { m, n, k };
  const plain = (kernel) => withMatrix(null, by(kernel, tx, tw, shape, { transposeB: true }));
  const versions = PRODUCTS.map(([what, subgroup, kernel]) => [what, subgroup, plain(kernel)]);
  const matrix = gpu.offeredMatrix;
  if (matrix)
    versions.push([
      "product_matrix (tensor cores)",
      own,
      withMatrix(matrix, (step) => linear(step, tx, tw)),
      true,
    ]);
  await ladder(
    `y = x W^T, M ${m}, W [${n} x ${k}] in f16`,
    2 * m * n * k,
    versions,
    m * n,
    (i) => {
      let sum = 0;
      for (let l = 0; l < k; l++) sum += x[Math.floor(i / n) * k + l] * w[(i % n) * k + l];
      return sum;
    },
    // x rounded to 11 bits.
    2 ** -11 * Math.sqrt(k),
  );
  for (const tensor of [tx, tw]) gpu.release(tensor);
}

async function attention(length, heads, headSize) {
  const width = heads * headSize;
  const stride = 3 * width;
  const data = noise(length * stride, 4);
  const qkv = gpu.parameter([length, stride], "f32", data);
  const columns = (offset) => ({ tensor: qkv, offset, stride });
  const inputs = { q: columns(0), k: columns(width), v: columns(2 * width) };
  const shape = { heads, keyValueHeads: heads, headSize, causal: true };
  // Tensor cores: packing the heads belongs to the time.
  const halves = (step) => packHeads(step, inputs, length, shape, headLayoutOf(step, headSize), null);
  const forward = (half) => (step) =>
    half
      ? attendHeads(step, halves(step), packed(step, [length]), true).o
      : selfAttention(step, inputs, packed(step, [length]), shape).o;
  const at = (row, part, column) => data[row * stride + part * width + column];
  const reference = (i) => {
    const [row, column] = [Math.floor(i / width), i % width];
    const head = Math.floor(column / headSize) * headSize;
    let [total, sum] = [0, 0];
    for (let key = 0; key <= row; key++) {
      let score = 0;
      for (let d = head; d < head + headSize; d++) score += at(row, 0, d) * at(key, 1, d);
      const weight = Math.exp(score / Math.sqrt(headSize));
      total += weight;
      sum += weight * at(key, 2, column);
    }
    return sum / total;
  };
  const name = `causal attention, ${length} tokens, ${heads} heads of ${headSize}`;
  const pairs = width * length * (length + 1);
  const matrix = gpu.offeredMatrix;
  const versions = (each) => [
    ...ATTENTION.map(([what, subgroup]) => [what, subgroup, each(false)]),
    ...(matrix
      ? [["pack_heads, attention_matrix_* (tensor cores)", own, withMatrix(matrix, each(true)), true]]
      : []),
  ];
  // Tensor cores round queries, keys, values and probabilities to 11 bits.
  const rounded = 2 ** -8;
  await ladder(name, 2 * pairs, versions(forward), length * width, reference, rounded);
  const both = (half) => (step) => {
    const sequences = packed(step, [length]);
    const packedHeads = half ? halves(step) : null;
    const { o, lse } = half
      ? attendHeads(step, packedHeads, sequences, true)
      : selfAttention(step, inputs, sequences, shape);
    const gradient = step.tensor([length, stride]);
    const part = (offset) => ({ tensor: gradient, offset, stride });
    const into = { dq: part(0), dk: part(width), dv: part(2 * width) };
    // The result stands for the gradient at the result: any numbers of its size would do.
    if (half) attendHeadsGradient(step, o, { o, lse }, packedHeads, sequences, true, into);
    else selfAttentionGradient(step, o, o, lse, inputs, sequences, shape, into);
    return gradient;
  };
  await ladder(`${name}, and backward`, 9 * pairs, versions(both), length * stride, null, rounded);
  gpu.release(qkv);
}

/** Users with 32 queries and 50 keys each, as the M-Former reads a history. */
async function cross(users, heads, headSize) {
  const [queryLength, keyLength, width] = [32, 50, heads * headSize];
  const rows = users * queryLength;
  const keyRows = users * keyLength;
  const [queries, memory] = [noise(rows * width, 5), noise(keyRows * 2 * width, 6)];
  const q = gpu.parameter([rows, width], "f32", queries);
  const kv = gpu.parameter([keyRows, 2 * width], "f32", memory);
  const part = (tensor, offset, stride) => ({ tensor, offset, stride });
  const inputs = { q: part(q, 0, width), k: part(kv, 0, 2 * width), v: part(kv, width, 2 * width) };
  const record = (step) => {
    const keys = { keyLengths: Array(users).fill(keyLength), owner: [...Array(users).keys()] };
    return crossAttention(step, inputs, keys, { heads, headSize, queryLength }).o;
  };
  const reference = (i) => {
    const [row, column] = [Math.floor(i / width), i % width];
    const head = Math.floor(column / headSize) * headSize;
    const first = Math.floor(row / queryLength) * keyLength;
    let [total, sum] = [0, 0];
    for (let key = first; key < first + keyLength; key++) {
      let score = 0;
      for (let d = head; d < head + headSize; d++)
        score += queries[row * width + d] * memory[key * 2 * width + d];
      const weight = Math.exp(score / Math.sqrt(headSize));
      total += weight;
      sum += weight * memory[key * 2 * width + width + column];
    }
    return sum / total;
  };
  await ladder(
    `cross-attention, ${users} x (32 queries, 50 keys), ${heads} heads of ${headSize}`,
    4 * width * rows * keyLength,
    ATTENTION.map(([what, subgroup]) => [what, subgroup, record]),
    rows * width,
    reference,
  );
  for (const tensor of [q, kv]) gpu.release(tensor);
}

/** The log-sum-exp over the items: through workgroup memory, and where subgroups share loads in their registers. */
async function itemSet(queries, count, width) {
  const [h, items] = [noise(queries * width, 7), noise(count * width, 8)];
  const th = gpu.parameter([queries, width], "f32", h);
  const tItems = gpu.parameter([count, width], "f32", items);
  const target = gpu.parameter([queries], "u32", new Uint32Array(queries));
  const scale = 1 / Math.sqrt(width);
  const reference = (query) => {
    let sum = 0;
    for (let i = 0; i < count; i++) {
      let dot = 0;
      for (let l = 0; l < width; l++) dot += h[query * width + l] * items[i * width + l];
      sum += Math.exp(scale * dot);
    }
    return Math.log(sum);
  };
  const record = (step) => crossEntropy(step, th, tItems, target, scale).lse;
  const versions = [["workgroup memory (item_set_walk_lse)", 0, record]];
  if (own) versions.push(["subgroup (item_set_rows_lse)", own, record]);
  await ladder(
    `log-sum-exp, ${queries} x ${count} x ${width}`,
    2 * queries * count * width,
    versions,
    queries,
    reference,
  );
  for (const tensor of [th, tItems, target]) gpu.release(tensor);
}

try {
  if (quick) {
    await products([64, 32, 48]);
    await frozenProduct([64, 40, 96]);
    await attention(40, 2, 16);
    await cross(2, 2, 16);
    await itemSet(4, 300, 32);
  } else {
    await products([1024, 256, 256]);
    await products([16, 768, 768]);
    await frozenProduct([512, 256, 256]);
    if (!gpu.software) {
      await products([4096, 4096, 4096]);
      await frozenProduct([4096, 4096, 4096]);
    }
    await attention(256, 12, 64);
    await cross(12, 12, 64);
    await itemSet(32, 20000, 256);
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
await bench.finish();
