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
 * What the two ways of ops/item-set-choice.ts owe each other, and what the fused one alone must stand: the sizes at which
 * a slab has several tiles, lists that keep changing, and memory. item-set.test.ts and item-set-rank.test.ts hold both
 * against float64.
 */
const t = suite("item-set-fused");
const ways = await itemSetWays();
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
  t(`both ways give the same ranks and lists to the bit: ${what}`, async () => {
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
    const fused = found.get("fused")!;
    assert.is(fused.exact[3].length, queries * k);
    for (const [name, { exact, lse, dh }] of found) {
      assert.equal(exact, fused.exact);
      assertClose(`${name}: lse`, lse, expected.lse, KERNEL_F32);
      // A panel adds its items one after the other: over 100,000 of them roundings add up to 7e-6, over a million 1e-3.
      if (name === "fused" || count < 100_000) assertClose(`${name}: dh`, dh, expected.dh, KERNEL_F32);
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
    // Those left out are the bests of their groups, which the fused way must look through again.
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
function scratch(queries: number, count: number, record: (step: Step, h: Tensor, items: Tensor) => void) {
  using gpu = Gpu.counting(ANY_GPU);
  const h = gpu.parameter([queries, 64]);
  const items = gpu.parameter([count, 64]);
  const before = gpu.buffers.bytes;
  const step = gpu.step("scratch");
  record(step, h, items);
  const bytes = gpu.buffers.bytes - before;
  void step.submit();
  return bytes;
}

t("on GPUs no scores are written: scratch is bounded, whatever the item set", () => {
  const target = (step: Step) => step.tensor([1024], "u32");
  const mebibytes = (count: number, record: (step: Step, h: Tensor, items: Tensor) => void) =>
    scratch(1024, count, record) / 2 ** 20;
  const entropy = (step: Step, h: Tensor, items: Tensor) =>
    void crossEntropy(step, h, items, target(step), 1);
  const gradient = (step: Step, h: Tensor, items: Tensor) => {
    const [lse, dLosses] = [step.tensor([1024]), step.tensor([1024])];
    crossEntropyGradient(step, h, items, target(step), lse, dLosses, 1);
  };
  const ranks = (step: Step, h: Tensor, items: Tensor) => void rankTargets(step, h, items, target(step));
  const top = (step: Step, h: Tensor, items: Tensor) => void topItems(step, h, items, 10);
  // A panel of 2^21 scores alone is 8 MiB, and 1024 x 10 million scores are 38 GiB. Ten million items are two windows.
  for (const [what, record, most] of [
    ["cross-entropy", entropy, 1.1],
    ["gradient", gradient, 5],
    ["ranks", ranks, 0.1],
    ["top 10", top, 16.2],
  ] as const) {
    for (const count of [400_000, 10_000_000]) {
      const used = mebibytes(count, record);
      assert.ok(used > 0 && used <= most, `${what}, ${count} items: ${used} MiB`);
    }
  }
});

/** WGSL cannot include: a kernel that is valid by itself repeats what it shares, which must not drift apart. */
t("the kernels that walk the item set make their dot products by the same text", () => {
  const { item_set_walk_best: best, item_set_walk_lse: lse, item_set_walk_rank: rank } = kernels;
  const [first, ...others] = [best, lse, rank].map(
    ({ source }) => /^fn load_h[\s\S]*?^ {2}return sums;$/m.exec(source)?.[0],
  );
  assert.match(first ?? "", "workgroupBarrier();");
  for (const other of others) assert.is(other, first);
});

t.run();
