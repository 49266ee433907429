import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { type Variant, variantOf } from "../gpu/variant.ts";
import { LARGEST_HEAD, laneAttention, matrixAttention, sharedAttention } from "../gpu/variants.ts";
import type { Strided } from "./strided.ts";

/** Rows of queries and of keys: half-open ranges of the packed tensors. */
export interface Span {
  readonly queries: readonly [number, number];
  readonly keys: readonly [number, number];
}

/**
 * Who reads what: the query rows of each span read its key rows; spans may share keys, and keys may have no span.
 * `keyRows` are the ranges of key rows, without overlap, whose gradient is wanted, each with the spans that read it.
 */
export interface Reading {
  readonly rows: number;
  readonly spans: readonly Span[];
  readonly keyRanges: readonly {
    readonly keys: readonly [number, number];
    readonly spans: readonly number[];
  }[];
  /** Query row r reads only the keys up to row r: queries and keys are the same packed rows. */
  readonly causal: boolean;
  /** Tables of workgroups already on the GPU, by what they are for: they live as long as the step. */
  readonly uploaded: Map<string, { step: Step; plan: Tensor; blocks: number; ranges: number }>;
}

export interface HeadShape {
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headSize: number;
  /**
   * Queries, keys, values and probabilities may be rounded to f16, as on tensor cores: for results without a gradient,
   * which the gradients' kernels, in f32, would not match.
   */
  readonly half?: boolean;
}

export interface Inputs {
  readonly q: Strided;
  readonly k: Strided;
  readonly v: Strided;
}

export interface Attended {
  /** [rows, heads x headSize] */
  readonly o: Tensor;
  /** [rows, heads]: natural log of the sum of the exponentials of a row's scores. */
  readonly lse: Tensor;
}

/**
 * How the kernels are laid out for an adapter. `shared`: the twins for software adapters, in which a subgroup shares
 * its loads (see kernels/attention_shared_forward.wgsl); otherwise one lane a row reads for itself.
 */
function layoutOf(step: Step, headSize: number): Variant & { shared: boolean; rows: number } {
  const subgroup = step.sharedSubgroup;
  if (subgroup >= 4) {
    return { ...sharedAttention(subgroup), shared: true, rows: subgroup };
  }
  // Compilers of software adapters unroll every load over the lanes: larger tiles take them minutes.
  return { ...laneAttention(headSize, step.software ? 1 : 4), shared: false, rows: 32 };
}

/** Query blocks of `lanes` rows, the ones with most keys first so that the last to finish are short. */
function queryPlan(step: Step, reading: Reading, lanes: number) {
  return upload(step, reading, `queries ${lanes}`, () => {
    const blocks: number[][] = [];
    for (const { queries, keys } of reading.spans) {
      for (let row = queries[0]; row < queries[1]; row += lanes) blocks.push([row, queries[1], ...keys]);
    }
    const cost = ([row, , first, end]: number[]) => (reading.causal ? row - first : end - first);
    blocks.sort((a, b) => cost(b) - cost(a));
    return { blocks, ranges: [] };
  });
}

/** Key blocks of `lanes` rows, and the ranges of query rows that read each. */
function keyPlan(step: Step, reading: Reading, lanes: number) {
  return upload(step, reading, `keys ${lanes}`, () => {
    const blocks: number[][] = [];
    const ranges: number[][] = [];
    for (const { keys, spans } of reading.keyRanges) {
      const first = ranges.length;
      for (const s of spans) ranges.push([...reading.spans[s].queries, 0, 0]);
      for (let row = keys[0]; row < keys[1]; row += lanes) {
        blocks.push([row, keys[1], first, ranges.length]);
      }
    }
    return { blocks, ranges };
  });
}

function upload(
  step: Step,
  reading: Reading,
  what: string,
  make: () => { blocks: number[][]; ranges: number[][] },
): { plan: Tensor; blocks: number; ranges: number } {
  const found = reading.uploaded.get(what);
  if (found?.step === step) return found;
  const { blocks, ranges } = make();
  const plan = step.upload(new Uint32Array([...blocks, ...ranges].flat()));
  const made = { step, plan, blocks: blocks.length, ranges: blocks.length };
  reading.uploaded.set(what, made);
  return made;
}

function check(
  { heads, keyValueHeads, headSize }: HeadShape,
  parts: Readonly<Record<string, Strided>>,
): void {
  if (headSize % 4 !== 0 || headSize < 4 || headSize > LARGEST_HEAD)
    throw new Error(`head size ${headSize}: expected a multiple of 4 from 4 to ${LARGEST_HEAD}`);
  if (keyValueHeads < 1 || heads % keyValueHeads !== 0)
    throw new Error(`${heads} heads do not divide into ${keyValueHeads} groups`);
  for (const name in parts) {
    const { offset, stride } = parts[name];
    if (offset % 4 !== 0 || stride % 4 !== 0)
      throw new Error(`${name} starts at ${offset} with rows of ${stride}: expected multiples of 4 elements`);
  }
}

/** Pairs of a query row and a key row that it reads, for the cost of a dispatch. */
function pairs({ spans, causal }: Reading): number {
  let sum = 0;
  for (const { queries, keys } of spans) {
    const rows = queries[1] - queries[0];
    sum += causal ? (rows * (rows + 1)) / 2 : rows * (keys[1] - keys[0]);
  }
  return sum;
}

/** The scalars that all kernels share; offsets and strides in vec4. */
function inputParams({ q, k, v }: Inputs, { heads, keyValueHeads, headSize }: HeadShape) {
  return {
    heads,
    group: heads / keyValueHeads,
    q_offset: q.offset / 4,
    q_stride: q.stride / 4,
    k_offset: k.offset / 4,
    k_stride: k.stride / 4,
    v_offset: v.offset / 4,
    v_stride: v.stride / 4,
    scale: 1 / Math.sqrt(headSize),
  };
}

/** o = softmax(q k^T / sqrt(h)) v: see kernels/attention_forward.wgsl, and attention_matrix_forward.wgsl for `half`. */
export function attend(step: Step, inputs: Inputs, reading: Reading, shape: HeadShape): Attended {
  const { q, k, v } = inputs;
  check(shape, { q, k, v });
  const { heads, headSize } = shape;
  const o = step.tensor([reading.rows, heads * headSize]);
  const lse = step.tensor([reading.rows, heads]);
  const matrix = shape.half ? step.subgroupMatrix : null;
  const onMatrices = matrix && matrixAttention(matrix, headSize);
  const layout = layoutOf(step, headSize);
  const { plan, blocks } = queryPlan(step, reading, onMatrices ? 4 * matrix.rows : layout.rows);
  const bindings = { q: q.tensor, k: k.tensor, v: v.tensor, plan, o, lse };
  const params = { ...inputParams(inputs, shape), blocks, count: blocks * heads };
  const workgroups = gridOf(blocks * heads);
  const cost = { flops: 4 * headSize * heads * pairs(reading), bytes: 16 * o.size };
  if (onMatrices) {
    const kernel = variantOf(kernels.attention_matrix_forward, onMatrices);
    step.run(kernel, { bindings, params, overrides: { CAUSAL: reading.causal }, workgroups, cost });
  } else if (layout.shared) {
    const kernel = variantOf(kernels.attention_shared_forward, layout);
    const uniform = { head_size: headSize, causal: Number(reading.causal) };
    step.run(kernel, { bindings, params: { ...params, ...uniform }, workgroups, cost });
  } else {
    const kernel = variantOf(kernels.attention_forward, layout);
    step.run(kernel, { bindings, params, overrides: { CAUSAL: reading.causal }, workgroups, cost });
  }
  return { o, lse };
}

/** The gradients of `attend`, into dq, dk, dv (overwritten): see kernels/attention_{delta,dq,dkv}.wgsl. */
export function attendGradient(
  step: Step,
  dO: Tensor,
  { o, lse }: Attended,
  inputs: Inputs,
  reading: Reading,
  shape: HeadShape,
  into: { dq: Strided; dk: Strided; dv: Strided },
): void {
  const { q, k, v } = inputs;
  check(shape, { q, k, v, ...into });
  const { heads, headSize } = shape;
  const stats = step.tensor([reading.rows, heads, 2]);
  const count = reading.rows * heads;
  step.run(kernels.attention_delta, {
    bindings: { d_out: dO, o, lse, stats },
    params: { count, head_size: headSize },
    workgroups: gridOf(Math.ceil(count / 64)),
    cost: { flops: 2 * o.size, bytes: 8 * o.size },
  });
  const rows = { q: q.tensor, k: k.tensor, v: v.tensor, d_out: dO, stats };
  queryGradient(step, rows, inputs, reading, shape, into.dq);
  keyValueGradient(step, rows, inputs, reading, shape, into.dk, into.dv);
  step.free(stats);
}

interface Rows {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly d_out: Tensor;
  readonly stats: Tensor;
}

function queryGradient(
  step: Step,
  rows: Rows,
  inputs: Inputs,
  reading: Reading,
  shape: HeadShape,
  dq: Strided,
): void {
  const { heads, headSize } = shape;
  const layout = layoutOf(step, headSize);
  const { plan, blocks } = queryPlan(step, reading, layout.rows);
  const bindings = { ...rows, plan, dq: dq.tensor };
  const params = {
    ...inputParams(inputs, shape),
    blocks,
    count: blocks * heads,
    dq_offset: dq.offset / 4,
    dq_stride: dq.stride / 4,
  };
  const workgroups = gridOf(blocks * heads);
  const width = heads * headSize;
  const cost = { flops: 6 * width * pairs(reading), bytes: 20 * width * reading.rows };
  if (layout.shared) {
    const kernel = variantOf(kernels.attention_shared_dq, layout);
    const uniform = { head_size: headSize, causal: Number(reading.causal) };
    step.run(kernel, { bindings, params: { ...params, ...uniform }, workgroups, cost });
  } else {
    const kernel = variantOf(kernels.attention_dq, layout);
    step.run(kernel, { bindings, params, overrides: { CAUSAL: reading.causal }, workgroups, cost });
  }
}

function keyValueGradient(
  step: Step,
  rows: Rows,
  inputs: Inputs,
  reading: Reading,
  shape: HeadShape,
  dk: Strided,
  dv: Strided,
): void {
  const { heads, keyValueHeads, headSize } = shape;
  const layout = layoutOf(step, headSize);
  const { plan, blocks, ranges } = keyPlan(step, reading, layout.rows);
  // A buffer cannot be bound for writing twice.
  const SHARED = dk.tensor.bufferId === dv.tensor.bufferId;
  const spare = SHARED ? step.tensor([4]) : dv.tensor;
  const bindings = { ...rows, plan, dk: dk.tensor, dv: spare };
  const params = {
    ...inputParams(inputs, shape),
    blocks,
    ranges,
    dk_offset: dk.offset / 4,
    dk_stride: dk.stride / 4,
    dv_offset: dv.offset / 4,
    dv_stride: dv.stride / 4,
  };
  const workgroups = gridOf(blocks * keyValueHeads);
  const width = heads * headSize;
  const cost = { flops: 8 * width * pairs(reading), bytes: 24 * width * reading.rows };
  const causal = reading.causal;
  if (layout.shared) {
    const kernel = variantOf(kernels.attention_shared_dkv, layout);
    const uniform = { head_size_causal: 2 * headSize + Number(causal) };
    step.run(kernel, {
      bindings,
      params: { ...params, ...uniform },
      overrides: { SHARED },
      workgroups,
      cost,
    });
  } else {
    const kernel = variantOf(kernels.attention_dkv, layout);
    const overrides = { CAUSAL: causal, SHARED };
    const all = { ...params, count: blocks * keyValueHeads };
    step.run(kernel, { bindings, params: all, overrides, workgroups, cost });
  }
  if (SHARED) step.free(spare);
}
