import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { LARGEST_HEAD } from "../gpu/variants.ts";
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

export interface Inputs {
  readonly q: Strided;
  readonly k: Strided;
  readonly v: Strided;
}

/** Query blocks of `lanes` rows, the ones with most keys first so that the last to finish are short. */
export function queryPlan(step: Step, reading: Reading, lanes: number) {
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
export function keyPlan(step: Step, reading: Reading, lanes: number) {
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

export function checkAttention(
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
export function pairs({ spans, causal }: Reading): number {
  let sum = 0;
  for (const { queries, keys } of spans) {
    const rows = queries[1] - queries[0];
    sum += causal ? (rows * (rows + 1)) / 2 : rows * (keys[1] - keys[0]);
  }
  return sum;
}

/** The scalars that all kernels in f32 share; offsets and strides in vec4. */
export function inputParams({ q, k, v }: Inputs, { heads, keyValueHeads, headSize }: HeadShape) {
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
