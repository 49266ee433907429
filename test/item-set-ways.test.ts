import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ANY_GPU } from "../src/gpu/counting-device.ts";
import { Gpu } from "../src/gpu/device.ts";
import { kernels } from "../src/gpu/kernels.generated.ts";
import type { Step } from "../src/gpu/step.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import { crossEntropy, crossEntropyGradient, NO_ITEM, rankTargets, topItems } from "../src/ops/item-set.ts";
import { assertClose, noise } from "./close.ts";
import { itemSetWays } from "./item-set-ways.ts";
import { KERNEL_F32 } from "./tolerances.ts";

/**
 * What the ways of ops/item-set-choice.ts owe each other and their users: the same answers at sizes at which a slab has
 * several tiles, lists that keep changing, and scores that are never written. item-set.test.ts and item-set-rank.test.ts
 * hold both against float64.
 */
const t = suite("item-set-ways");
const ways = await itemSetWays({ narrower: true });
const gpus = new Map<string, Gpu>();
for (const { name, open } of ways) gpus.set(name, await open());
t.after(() => {
  for (const gpu of gpus.values()) gpu.close();
});

interface Inputs {
  readonly h: Float32Array<ArrayBuffer>;
  readonly items: Float32Array<ArrayBuffer>;
  readonly bias: Float32Array<ArrayBuffer>;
  readonly target: Uint32Array<ArrayBuffer>;
  readonly dLosses: Float32Array<ArrayBuffer>;
}

const SCALE = 2;

/** The log-sum-exps and the gradient with respect to h of sum(dLosses * losses), in float64. */
function reference({ h, items, bias, target, dLosses }: Inputs) {
  const [queries, count] = [target.length, bias.length];
  const width = h.length / queries;
  const lse = new Float64Array(queries);
  const dh = new Float64Array(h.length);
  const p = new Float64Array(count);
  for (let q = 0; q < queries; q++) {
    let sum = 0;
    for (let i = 0; i < count; i++) {
      let dot = 0;
      for (let k = 0; k < width; k++) dot += h[q * width + k] * items[i * width + k];
      p[i] = Math.exp(SCALE * dot + bias[i]);
      sum += p[i];
    }
    lse[q] = Math.log(sum);
    for (let i = 0; i < count; i++) {
      const g = SCALE * dLosses[q] * (p[i] / sum - (i === target[q] ? 1 : 0));
      for (let k = 0; k < width; k++) dh[q * width + k] += g * items[i * width + k];
    }
  }
  return { lse, dh };
}

/** Everything that is asked of an item set, by one way. */
async function answers(gpu: Gpu, data: Inputs, k: number) {
  const [queries, count] = [data.target.length, data.bias.length];
  const width = data.h.length / queries;
  const step = gpu.step("answers");
  const h = step.upload(data.h, [queries, width]);
  const items = step.upload(data.items, [count, width]);
  const [bias, target, dLosses] = [data.bias, data.target, data.dLosses].map((x) => step.upload(x));
  const offsets = step.upload(Uint32Array.from({ length: queries + 1 }, (_, q) => 3 * q));
  const ids = step.upload(Uint32Array.from({ length: 3 * queries }, (_, n) => (n * 31) % count));
  const seen = { offsets, ids };
  const ranks = rankTargets(step, h, items, target, { bias, seen });
  const list = topItems(step, h, items, k, { bias, seen });
  const { lse } = crossEntropy(step, h, items, target, SCALE, bias);
  const dh = crossEntropyGradient(step, h, items, target, lse, dLosses, SCALE, bias);
  const exact = [ranks.above, ranks.equal, ranks.nonFinite, list.ids, list.scores, list.nonFinite];
  const [exactReads, closeReads] = [exact, [lse, dh]].map((all) => all.map((x) => step.read(x)));
  await step.submit();
  const [lses, dhs] = await Promise.all(closeReads);
  return { exact: await Promise.all(exactReads), lse: lses, dh: dhs };
}

for (const [queries, count, width, k, what] of [
  [3, 700, 31, 20, "few queries"],
  [40, 2501, 16, 50, "some queries"],
  [67, 1203, 12, 300, "many queries, a long list"],
  [1100, 3845, 4, 5, "slabs of several tiles"],
  [8, 140_000, 3, 10, "slabs of several tiles, few queries"],
  [3, 1_050_000, 1, 100, "groups of 64"],
] as const) {
  t(`all ways give the same ranks and lists to the bit: ${what}`, async () => {
    const data = {
      h: noise(queries * width, 1),
      items: noise(count * width, 2),
      bias: noise(count, 4),
      target: Uint32Array.from({ length: queries }, (_, q) => (q * 7919 + 5) % count),
      dLosses: noise(queries, 3),
    };
    const expected = reference(data);
    const found = new Map<string, Awaited<ReturnType<typeof answers>>>();
    for (const [name, gpu] of gpus) found.set(name, await answers(gpu, data, k));
    const walked = found.get("workgroup memory")!;
    assert.is(walked.exact[3].length, queries * k);
    for (const [name, { exact, lse, dh }] of found) {
      assert.equal(exact, walked.exact);
      assertClose(`${name}: lse`, lse, expected.lse, KERNEL_F32);
      assertClose(`${name}: dh`, dh, expected.dh, KERNEL_F32);
    }
  });
}

async function lists(
  gpu: Gpu,
  h: Float32Array<ArrayBuffer>,
  items: Float32Array<ArrayBuffer>,
  k: number,
  seen: Uint32Array<ArrayBuffer> | null = null,
) {
  const width = 2;
  const queries = h.length / width;
  const step = gpu.step("lists");
  const each = (seen?.length ?? 0) / queries;
  const list = topItems(
    step,
    step.upload(h, [queries, width]),
    step.upload(items, [items.length / width, width]),
    k,
    {
      seen: seen && {
        offsets: step.upload(Uint32Array.from({ length: queries + 1 }, (_, q) => q * each)),
        ids: step.upload(seen),
      },
    },
  );
  const reads = [list.ids, list.scores].map((tensor) => step.read(tensor));
  await step.submit();
  const [ids, scores] = await Promise.all(reads);
  return { ids, scores };
}

for (const { name } of ways) {
  const gpu = gpus.get(name)!;

  for (const [order, score, best] of [
    ["ascending", (i: number) => i, (n: number) => 20_000 - 1 - n],
    ["descending", (i: number) => -i, (n: number) => n],
    ["all equal", () => 7, (n: number) => n],
    ["few values, each in runs", (i: number) => Math.floor(i / 700) % 3, (n: number) => 1400 + n],
  ] as const) {
    t(`${name}: 600 of 20,000 items whose scores are ${order}`, async () => {
      // Item i is (score, 0): in ascending order every group displaces what was listed before.
      const items = Float32Array.from({ length: 40_000 }, (_, n) => (n % 2 ? 0 : score(n >> 1)));
      const { ids, scores } = await lists(gpu, Float32Array.from([1, 0, 0.5, 3]), items, 600);
      for (const q of [0, 1]) {
        assert.equal(
          [...ids.subarray(600 * q, 600 * (q + 1))],
          Array.from({ length: 600 }, (_, n) => best(n)),
        );
        assert.is(scores[600 * q + 599], (q ? 0.5 : 1) * score(best(599)));
      }
    });
  }

  t(`${name}: without the best 60 the next 60 are the list`, async () => {
    // Those left out are the bests of their groups, which must be looked through again.
    const [h, items] = [noise(2 * 11, 1), noise(2 * 3001, 2)];
    const both = await lists(gpu, h, items, 120);
    const cut = (from: number) =>
      Uint32Array.from({ length: 60 * 11 }, (_, n) => both.ids[120 * Math.floor(n / 60) + from + (n % 60)]);
    const next = await lists(gpu, h, items, 60, cut(0));
    assert.equal(next.ids, cut(60));
  });

  t(`${name}: with all items seen the list is empty`, async () => {
    const every = Uint32Array.from({ length: 300 }, (_, i) => i);
    const { ids, scores } = await lists(gpu, noise(2, 1), noise(600, 2), 5, every);
    assert.equal(ids, new Uint32Array(5).fill(NO_ITEM));
    assert.equal(scores, new Float32Array(5).fill(Number.NEGATIVE_INFINITY));
  });
}

/** Bytes that a recording takes on a GPU that counts, beyond `given` tensors. */
function scratch(
  sharedSubgroup: number,
  [queries, count, width]: readonly [number, number, number],
  record: (step: Step, h: Tensor, items: Tensor) => void,
) {
  using gpu = Gpu.counting({ ...ANY_GPU, sharedSubgroup, software: sharedSubgroup > 0 });
  const h = gpu.parameter([queries, width]);
  const items = gpu.parameter([count, width]);
  const before = gpu.buffers.bytes;
  const step = gpu.step("scratch");
  record(step, h, items);
  const bytes = gpu.buffers.bytes - before;
  void step.submit();
  return bytes;
}

const questions = (queries: number) => {
  const target = (step: Step) => step.tensor([queries], "u32");
  return {
    "cross-entropy": (step: Step, h: Tensor, items: Tensor) =>
      void crossEntropy(step, h, items, target(step), 1),
    gradient: (step: Step, h: Tensor, items: Tensor) => {
      const [lse, dLosses] = [step.tensor([queries]), step.tensor([queries])];
      crossEntropyGradient(step, h, items, target(step), lse, dLosses, 1);
    },
    ranks: (step: Step, h: Tensor, items: Tensor) => void rankTargets(step, h, items, target(step)),
    "top 10": (step: Step, h: Tensor, items: Tensor) => void topItems(step, h, items, 10),
  };
};

for (const [adapter, lanes] of [
  ["a GPU", 0],
  ["lavapipe with vectors of 512 bits", 16],
  ["lavapipe with vectors of 256 bits", 8],
  ["SwiftShader", 4],
] as const) {
  t(`on ${adapter} no scores are written: scratch is bounded, whatever the item set`, () => {
    // 1024 x 10 million scores are 38 GiB. Ten million items are two windows.
    const most = { "cross-entropy": 1.1, gradient: 5, ranks: 0.1, "top 10": 16.2 };
    for (const [what, record] of Object.entries(questions(1024))) {
      for (const count of [400_000, 10_000_000]) {
        const used = scratch(lanes, [1024, count, 64], record) / 2 ** 20;
        const limit = most[what as keyof typeof most];
        assert.ok(used > 0 && used <= limit, `${what}, ${count} items: ${used} MiB`);
      }
    }
  });

  t(`on ${adapter} no scores are written, however few they are`, () => {
    // As many as in `npm start`, of a width at which partial sums of the gradient are small beside them.
    for (const [what, record] of Object.entries(questions(512))) {
      const used = scratch(lanes, [512, 400, 8], record) / (4 * 512 * 400);
      assert.ok(used > 0 && used < 0.5, `${what}: ${used} of the scores' size`);
    }
  });
}

/** WGSL cannot include: a kernel that is valid by itself repeats what it shares, which must not drift apart. */
function assertShared(pattern: RegExp, contains: string, names: readonly (keyof typeof kernels)[]): void {
  const [first, ...others] = names.map((name) => pattern.exec(kernels[name].source)?.[0]);
  assert.match(first ?? "", contains);
  for (const other of others) assert.is(other, first);
}

t("kernels that make scores in the same way do it by the same text", () => {
  assertShared(/^fn load_h[\s\S]*?^ {2}return sums;$/m, "workgroupBarrier();", [
    "item_set_walk_best",
    "item_set_walk_lse",
    "item_set_walk_rank",
  ]);
  assertShared(/^const LANES[\s\S]*?^ {2}for \(var i = 0u; i < ROWS; i\+\+\)/m, "add_rows", [
    "item_set_rows_best",
    "item_set_rows_lse",
    "item_set_rows_rank",
    "item_set_rows_gradient",
  ]);
  assertShared(/^fn dot4[\s\S]*?\/\/ each lane$/m, "subgroupBroadcast", [
    "product_rows",
    "item_set_rows_lse",
  ]);
});

t.run();
