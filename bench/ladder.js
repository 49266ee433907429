// The ladders: node bench/ladder.js [--json] [--quick] [--adapter=NAME]
//
// The same work by every version of a kernel family that this adapter can run, from the naive one to the fastest, each
// checked against the first before it is timed (which is itself checked against float64 in a few places). The project
// takes the version that src/ops/product-choice.ts and src/ops/attend.ts name for the adapter; here each is asked for.
// The pages of docs/kernels keep the figures.
import { laser, noise, open, quick } from "./harness.js";

const { linear, linearInputGradient, linearWeightGradient, packed, productNaive, selfAttention } = laser;

const bench = await open("Ladders: every version of a kernel on the same work, f32");
const { gpu } = bench;
const own = gpu.sharedSubgroup;

/** Versions by the subgroup that leads to them: see chooseProduct and layoutOf. */
const PRODUCTS = [
  ["product", 0],
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

/** What a recording computes. */
async function values(record) {
  const step = gpu.step("check");
  const read = step.readFloats(record(step));
  await step.submit();
  return read;
}

/** Times each version of one piece of work; `reference(i)` is element i of the result in float64. */
async function ladder(work, flops, versions, size, reference, tolerance = 1e-3) {
  let first;
  for (const [name, subgroup, record, matrices = false] of versions) {
    const run = (step) => as(subgroup, () => record(step));
    const found = await values(run);
    for (let probe = 0; probe < 16; probe++) {
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
  const weightGradient = (step) => {
    const dw = step.tensor([n, k]);
    linearWeightGradient(step, tdy, tx, dw, false);
    return dw;
  };
  const dot = (length, term) => {
    let sum = 0;
    for (let l = 0; l < length; l++) sum += term(l);
    return sum;
  };
  const flops = 2 * m * n * k;
  const name = `M ${m}, W [${n} x ${k}]`;
  const versions = (first, record) => [
    ["product_naive", own, first],
    ...PRODUCTS.map(([what, subgroup]) => [what, subgroup, record]),
  ];
  await ladder(
    `y = x W^T, ${name}`,
    flops,
    versions(naive(tx, tw, { m, n, k }, { transposeB: true }), (step) => linear(step, tx, tw)),
    m * n,
    (i) => dot(k, (l) => x[Math.floor(i / n) * k + l] * w[(i % n) * k + l]),
  );
  await ladder(
    `dx = dy W, ${name}`,
    flops,
    versions(naive(tdy, tw, { m, n: k, k: n }, {}), (step) => linearInputGradient(step, tdy, tw)),
    m * k,
    (i) => dot(n, (l) => dy[Math.floor(i / k) * n + l] * w[l * k + (i % k)]),
  );
  await ladder(
    `dW = dy^T x, ${name}`,
    flops,
    versions(naive(tdy, tx, { m: n, n: k, k: m }, { transposeA: true }), weightGradient),
    n * k,
    (i) => dot(m, (l) => dy[l * n + Math.floor(i / k)] * x[l * k + (i % k)]),
  );
  for (const tensor of [tx, tw, tdy]) gpu.release(tensor);
}

/** Frozen weights in f16: tensor cores multiply them where there are any, and round the rows of x to f16. */
async function frozenProduct([m, n, k]) {
  const [x, w] = [noise(m * k, 1), noise(n * k, 2)];
  const tx = gpu.parameter([m, k], "f32", x);
  const tw = gpu.parameter([n, k], "f16", laser.packWeights(w, k, "f16"));
  const by = (matrix) => (step) => {
    const before = gpu.subgroupMatrix;
    gpu.subgroupMatrix = matrix;
    try {
      return linear(step, tx, tw);
    } finally {
      gpu.subgroupMatrix = before;
    }
  };
  const versions = PRODUCTS.map(([what, subgroup]) => [what, subgroup, by(null)]);
  const matrix = gpu.offeredMatrix;
  if (matrix) versions.push(["product_matrix (tensor cores)", own, by(matrix), true]);
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
    // Both operands rounded to 11 bits.
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
  const record = (step) => selfAttention(step, inputs, packed(step, [length]), shape).o;
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
  await ladder(
    `causal attention, ${length} tokens, ${heads} heads of ${headSize}`,
    2 * width * length * (length + 1),
    ATTENTION.map(([name, subgroup]) => [name, subgroup, record]),
    length * width,
    reference,
  );
  gpu.release(qkv);
}

try {
  if (quick) {
    await products([64, 32, 48]);
    await frozenProduct([64, 40, 96]);
    await attention(40, 2, 16);
  } else {
    await products([1024, 256, 256]);
    await products([16, 768, 768]);
    await frozenProduct([512, 256, 256]);
    if (!gpu.software) {
      await products([4096, 4096, 4096]);
      await frozenProduct([4096, 4096, 4096]);
    }
    await attention(256, 12, 64);
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
await bench.finish();
