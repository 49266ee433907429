import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { type Variant, variantOf } from "../gpu/variant.ts";
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
}

export interface Attended {
  /** [rows, heads x headSize] */
  readonly o: Tensor;
  /** [rows, heads]: natural log of the sum of the exponentials of a row's scores. */
  readonly lse: Tensor;
}

/** Columns beyond this would need more registers than any GPU has. */
const LARGEST_HEAD = 256;

/** The variant of the kernels that suits the adapter: see the kernels' header comments. */
function variant(step: Step, headSize: number): Variant & { readonly lanes: number } {
  const subgroup =
    step.sharedSubgroup >= 8 && step.sharedSubgroup <= 32 ? Math.min(4, step.sharedSubgroup) : 0;
  const lanes = subgroup ? step.sharedSubgroup : 32;
  // A software adapter compiles every load of a tile into a loop over its lanes: larger tiles compile for minutes.
  const keys = subgroup || (step.software ? 1 : 4);
  return { constants: { HEAD_SIZE: headSize, KEYS: keys, LANES: lanes }, subgroup, lanes };
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

const scaleOf = (headSize: number) => 1 / Math.sqrt(headSize);

/** o = softmax(q k^T / sqrt(h)) v: see kernels/attention_forward.wgsl. */
export function attend(
  step: Step,
  { q, k, v }: { q: Strided; k: Strided; v: Strided },
  reading: Reading,
  shape: HeadShape,
): Attended {
  check(shape, { q, k, v });
  const { heads, keyValueHeads, headSize } = shape;
  const o = step.tensor([reading.rows, heads * headSize]);
  const lse = step.tensor([reading.rows, heads]);
  const kind = variant(step, headSize);
  const { plan, blocks } = queryPlan(step, reading, kind.lanes);
  step.run(variantOf(kernels.attention_forward, kind), {
    bindings: { q: q.tensor, k: k.tensor, v: v.tensor, plan, o, lse },
    params: {
      blocks,
      count: blocks * heads,
      heads,
      group: heads / keyValueHeads,
      q_offset: q.offset / 4,
      q_stride: q.stride / 4,
      k_offset: k.offset / 4,
      k_stride: k.stride / 4,
      v_offset: v.offset / 4,
      v_stride: v.stride / 4,
      scale: scaleOf(headSize),
    },
    overrides: { CAUSAL: reading.causal },
    workgroups: gridOf(blocks * heads),
    cost: { flops: 4 * headSize * heads * pairs(reading), bytes: 16 * o.size },
  });
  return { o, lse };
}

/** The gradients of `attend`, into dq, dk, dv (overwritten): see kernels/attention_{delta,dq,dkv}.wgsl. */
export function attendGradient(
  step: Step,
  dO: Tensor,
  { o, lse }: Attended,
  { q, k, v }: { q: Strided; k: Strided; v: Strided },
  reading: Reading,
  shape: HeadShape,
  into: { dq: Strided; dk: Strided; dv: Strided },
): void {
  check(shape, { q, k, v, ...into });
  const { heads, keyValueHeads, headSize } = shape;
  const stats = step.tensor([reading.rows, heads, 2]);
  const count = reading.rows * heads;
  step.run(kernels.attention_delta, {
    bindings: { d_out: dO, o, lse, stats },
    params: { count },
    overrides: { HEAD_SIZE: headSize },
    workgroups: gridOf(Math.ceil(count / 64)),
    cost: { flops: 2 * o.size, bytes: 8 * o.size },
  });
  const kind = variant(step, headSize);
  const params = {
    heads,
    group: heads / keyValueHeads,
    q_offset: q.offset / 4,
    q_stride: q.stride / 4,
    k_offset: k.offset / 4,
    k_stride: k.stride / 4,
    v_offset: v.offset / 4,
    v_stride: v.stride / 4,
    scale: scaleOf(headSize),
  };
  const rows = { q: q.tensor, k: k.tensor, v: v.tensor, d_out: dO, stats };
  const work = heads * headSize * pairs(reading);
  const byQuery = queryPlan(step, reading, kind.lanes);
  step.run(variantOf(kernels.attention_dq, kind), {
    bindings: { ...rows, plan: byQuery.plan, dq: into.dq.tensor },
    params: {
      ...params,
      blocks: byQuery.blocks,
      count: byQuery.blocks * heads,
      dq_offset: into.dq.offset / 4,
      dq_stride: into.dq.stride / 4,
    },
    overrides: { CAUSAL: reading.causal },
    workgroups: gridOf(byQuery.blocks * heads),
    cost: { flops: 6 * work, bytes: 20 * o.size },
  });
  const byKey = keyPlan(step, reading, kind.lanes);
  const shared = into.dk.tensor.bufferId === into.dv.tensor.bufferId;
  step.run(variantOf(kernels.attention_dkv, kind), {
    bindings: {
      ...rows,
      plan: byKey.plan,
      dk: into.dk.tensor,
      dv: shared ? step.tensor([4]) : into.dv.tensor,
    },
    params: {
      ...params,
      blocks: byKey.blocks,
      count: byKey.blocks * keyValueHeads,
      ranges: byKey.ranges,
      dk_offset: into.dk.offset / 4,
      dk_stride: into.dk.stride / 4,
      dv_offset: into.dv.offset / 4,
      dv_stride: into.dv.stride / 4,
    },
    overrides: { CAUSAL: reading.causal, SHARED: shared },
    workgroups: gridOf(byKey.blocks * keyValueHeads),
    cost: { flops: 8 * work, bytes: 24 * o.size },
  });
  step.free(stats);
}
