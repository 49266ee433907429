/**
 * Every kernel whose lanes share workgroup memory, run by wgsl_reflect's interpreter, which records who reads and
 * writes what between barriers: as it stands no two lanes may race; with its barriers taken out they must, or the
 * check would be worth nothing.
 */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { detectRaces } from "wgsl_reflect/wgsl_reflect.module.js";
import type { Kernel } from "../src/gpu/kernel.ts";
import { kernels } from "../src/gpu/kernels.generated.ts";

const t = suite("races");

interface Case {
  readonly groups: number;
  readonly params: Readonly<Record<string, number>>;
  readonly constants?: Readonly<Record<string, number>>;
  /** Bindings that hold indexes; all others hold small floats. */
  readonly indexes?: Readonly<Record<string, readonly number[]>>;
}

const PRODUCT = {
  m: 5,
  n: 7,
  k: 20,
  lda: 20,
  ldb: 7,
  ldc: 7,
  a_offset: 0,
  c_offset: 0,
  depth: 20,
  split_stride: 35,
  added: 0,
};
const cu = { cu_seqlens: [0, 3, 5] };
const CASES: Readonly<Record<string, Case>> = {
  binary_loss: { groups: 2, params: { rows: 2, width: 70, lanes: 64 } },
  chunk_sum: { groups: 2, params: { count: 200, chunk: 100, out_offset: 0 } },
  expert_product: {
    groups: 1,
    params: { rows: 5, columns: 7, depth: 3, slots: 2, share: 1 },
    indexes: { top: [0, 1] },
  },
  expert_weight_gradient: {
    groups: 1,
    params: { sequences: 3, rows: 3, outputs: 7, inputs: 6, share: 1 },
    indexes: { top: [0, 1, 0] },
  },
  head_norm: {
    groups: 2,
    params: { rows: 2, heads: 3, queries: 2, head_size: 10, stride: 40, eps: 1e-5, lanes: 16 },
  },
  head_norm_gradient: {
    groups: 2,
    params: { rows: 2, heads: 3, queries: 2, head_size: 10, stride: 40, eps: 1e-5, lanes: 16 },
  },
  // Two tiles of columns, so that a barrier that keeps the second off the first is needed too.
  item_set_gradient: {
    groups: 1,
    params: { queries: 4, items: 70, width: 3, first: 0, slab: 128, options: 2, scale: 2 },
    indexes: { targets: [0, 3, 8, 2] },
  },
  item_set_merge_lse: { groups: 2, params: { queries: 2, slabs: 5 } },
  item_set_rank_seen: {
    groups: 2,
    params: { queries: 2, items: 9, width: 3, first: 0, count_pitch: 64, biased: 0 },
    indexes: { targets: [0, 3], seen_offsets: [0, 2, 5], seen_ids: [1, 4, 2, 5, 6], counts: [9, 9] },
  },
  item_set_walk_best: {
    groups: 1,
    params: { queries: 4, items: 70, width: 3, first: 0, tiles: 2, groups: 16, options: 0 },
    indexes: { allowed: [0], not_finite: [0] },
  },
  item_set_walk_lse: {
    groups: 1,
    params: { queries: 4, items: 70, width: 3, first: 0, slab: 128, first_slab: 0, biased: 0, scale: 2 },
    indexes: { targets: [0, 3, 8, 2] },
  },
  item_set_walk_rank: {
    groups: 1,
    params: { queries: 4, items: 70, width: 3, first: 0, slab: 128, count_pitch: 64, biased: 0 },
    indexes: { targets: [0, 3, 8, 2], counts: [0] },
  },
  // Two tiles of items.
  item_set_rows_gradient: {
    groups: 1,
    params: { queries: 4, items: 40, width: 4, first: 0, slab: 64, options: 0, scale: 2 },
    constants: { ITEMS: 1 },
    indexes: { terms: [0, 0, 0, 0] },
  },
  layer_norm_forward: { groups: 2, params: { rows: 2, width: 70, eps: 1e-5 }, constants: { LANES: 64 } },
  layer_norm_gradient: { groups: 2, params: { rows: 2, width: 70 }, constants: { LANES: 64 } },
  rms_norm_forward: { groups: 2, params: { rows: 2, width: 70, eps: 1e-5 }, constants: { LANES: 64 } },
  rms_norm_gradient: { groups: 2, params: { rows: 2, width: 70 }, constants: { LANES: 64 } },
  pack_columns: {
    groups: 1,
    params: { rows: 6, columns: 5, lda: 5, a_offset: 0, words: 16, bands: 3 },
    indexes: { peaks: [0] },
  },
  product: { groups: 1, params: PRODUCT },
  product_large: { groups: 1, params: PRODUCT },
  router: { groups: 2, params: { batch: 2, width: 6, experts: 4, chosen: 2 }, indexes: cu },
  router_balance: {
    groups: 1,
    params: { batch: 2, experts: 4 },
    indexes: { ...cu, argmax_counts: [1, 2, 0, 0, 1, 1, 0, 0] },
  },
  router_gradient: {
    groups: 2,
    params: { batch: 2, experts: 4, chosen: 2, coefficient: 0.1 },
    constants: { GATES: 1, BALANCE: 1, BATCH_SCOPE: 1 },
    indexes: { ...cu, argmax_counts: [1, 2, 0, 0, 1, 1, 0, 0], top: [0, 1, 2, 3] },
  },
};

/** Runs a kernel in the interpreter; the scalars come through a uniform, which the interpreter can be given. */
function races(kernel: Kernel, { groups, params, constants = {}, indexes = {} }: Case, barriers: boolean) {
  let source = kernel.source
    .replace("requires immediate_address_space;", "")
    .replace("var<immediate> params", "@group(1) @binding(0) var<uniform> params")
    // It knows no subgroups. Which lane's value a broadcast gives changes no address here.
    .replace("enable subgroups;", "")
    .replace("@builtin(subgroup_invocation_id) lane: u32", "@builtin(local_invocation_index) lane: u32")
    .replace(/subgroupBroadcast\((\w+), 0u\)/g, "$1");
  if (!barriers) source = source.replaceAll("workgroupBarrier();", "");
  const buffers: Record<string, Record<string, ArrayBufferView>> = { 0: {}, 1: {} };
  for (const { name, binding } of kernel.bindings) {
    const held = indexes[name];
    const data = held ? new Uint32Array(1024) : new Float32Array(1024).fill(0.5);
    if (held) data.set(held);
    buffers[0][binding] = data;
  }
  const scalars = new DataView(new ArrayBuffer(64));
  for (const { name, type, offset } of kernel.params) {
    if (params[name] === undefined) throw new Error(`${kernel.name}: no value for ${name}`);
    if (type === "f32") scalars.setFloat32(offset, params[name], true);
    else scalars.setUint32(offset, params[name], true);
  }
  buffers[1][0] = { uniform: scalars.buffer } as unknown as ArrayBufferView;
  return detectRaces(source, "main", [groups, 1, 1], buffers, { constants });
}

/** Whether a kernel races once its barriers are out. */
function racesWithoutBarriers(kernel: Kernel, shape: Case): boolean {
  try {
    return races(kernel, shape, false).races.length > 0;
  } catch (error) {
    // More races than fit the arguments of the interpreter's own Array.push.
    if (error instanceof RangeError) return true;
    throw error;
  }
}

/**
 * The interpreter (wgsl_reflect 1.6.0) reports races that are none in a tree reduction (a barrier inside a loop that
 * halves the lanes at work), so those kernels, and the top-k merge built like them, are left to the adapters' tests. It
 * knows no subgroup matrices: product-matrix.test.ts takes that kernel's barriers out one by one on an adapter.
 */
const beyondInterpreter = ({ source }: Kernel) =>
  /(half|gap) \/= 2u/.test(source) || source.includes("enable chromium_experimental_subgroup_matrix;");

const sharing = Object.values(kernels).filter(
  (kernel) => kernel.source.includes("workgroupBarrier") && !beyondInterpreter(kernel),
);

t("every kernel that shares memory is checked here, and no other", () => {
  assert.equal(Object.keys(CASES).sort(), sharing.map(({ name }) => name).sort());
});

for (const kernel of sharing) {
  const shape = CASES[kernel.name];
  if (!shape) continue;
  t(`${kernel.name}: no race with its barriers, races without`, () => {
    const intact = races(kernel, shape, true);
    assert.equal(intact.errors, []);
    assert.equal(intact.races, []);
    assert.ok(racesWithoutBarriers(kernel, shape), "no race was found without barriers");
  });
}

t.run();
