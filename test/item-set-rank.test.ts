import { suite } from "uvu";
import * as assert from "uvu/assert";
import { floatsToHalves, halfToFloat, packHalves } from "../src/files/half.ts";
import type { Gpu } from "../src/gpu/device.ts";
import type { Step } from "../src/gpu/step.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import { NO_ITEM, type RaggedIds, rankTargets, topItems } from "../src/ops/item-set.ts";
import { linear } from "../src/ops/linear.ts";
import { noise } from "./close.ts";
import { itemSetWays } from "./item-set-ways.ts";

const t = suite("item-set-rank");

function ragged(step: Step, lists: readonly (readonly number[])[]): RaggedIds {
  const offsets = new Uint32Array(lists.length + 1);
  lists.forEach((list, q) => {
    offsets[q + 1] = offsets[q] + list.length;
  });
  return { offsets: step.upload(offsets), ids: step.upload(Uint32Array.from(lists.flat())) };
}

interface Case {
  readonly queries: number;
  readonly count: number;
  readonly width: number;
  readonly h: Float32Array<ArrayBuffer>;
  readonly items: Float32Array<ArrayBuffer>;
  readonly target: Uint32Array<ArrayBuffer>;
  readonly bias: Float32Array<ArrayBuffer> | null;
  readonly seen: number[][] | null;
}

/** Random rows with twins planted among them, as far apart as they can lie, targets among the twins, lists of seen items. */
function example(queries: number, count: number, width: number, biased: boolean, seen: boolean): Case {
  const items = noise(count * width, 2);
  const bias = biased ? noise(count, 4) : null;
  const copy = (from: number, to: number) => {
    items.copyWithin(to * width, from * width, (from + 1) * width);
    if (bias) bias[to] = bias[from];
  };
  for (let i = 0; i < count; i += 3) copy(i % Math.min(count, 9), i);
  copy(0, count - 1);
  const target = Uint32Array.from({ length: queries }, (_, q) => (q % 3 ? (q * 37) % count : q % count));
  const list = (q: number) => Array.from({ length: q % 7 }, (_, n) => (q * 11 + (n >> 1) * 3) % count);
  return {
    queries,
    count,
    width,
    h: noise(queries * width, 1),
    items,
    target,
    bias,
    // Ids repeat, and some lists hold the target.
    seen: seen
      ? Array.from({ length: queries }, (_, q) => [...list(q), ...(q % 4 ? [] : [target[q]])])
      : null,
  };
}

/**
 * Counts and lists from scores in float64, rounded to f32 so that they are exact there: with small integers for h and
 * items no sum rounds anywhere, and the float64 scores are the f32 scores.
 */
function scores(c: Case): Float64Array {
  const s = new Float64Array(c.queries * c.count);
  for (let q = 0; q < c.queries; q++) {
    for (let i = 0; i < c.count; i++) {
      let sum = 0;
      for (let k = 0; k < c.width; k++) sum += c.h[q * c.width + k] * c.items[i * c.width + k];
      s[q * c.count + i] = sum + (c.bias ? c.bias[i] : 0);
    }
  }
  return s;
}

function expectedCounts(c: Case, s: ArrayLike<number>) {
  const above = new Uint32Array(c.queries);
  const equal = new Uint32Array(c.queries);
  for (let q = 0; q < c.queries; q++) {
    const own = s[q * c.count + c.target[q]];
    for (let i = 0; i < c.count; i++) {
      if (i === c.target[q] || c.seen?.[q].includes(i)) continue;
      if (s[q * c.count + i] > own) above[q]++;
      if (s[q * c.count + i] === own) equal[q]++;
    }
  }
  return { above, equal };
}

function expectedTop(c: Case, s: ArrayLike<number>, k: number, allowed: (item: number) => boolean) {
  const ids = new Uint32Array(c.queries * k).fill(NO_ITEM);
  const best = new Float32Array(c.queries * k).fill(Number.NEGATIVE_INFINITY);
  for (let q = 0; q < c.queries; q++) {
    const candidates = Array.from({ length: c.count }, (_, i) => i).filter(
      (i) => allowed(i) && !c.seen?.[q].includes(i),
    );
    candidates.sort((a, b) => s[q * c.count + b] - s[q * c.count + a] || a - b);
    candidates.slice(0, k).forEach((id, place) => {
      ids[q * k + place] = id;
      best[q * k + place] = s[q * c.count + id];
    });
  }
  return { ids, best };
}

function whole(c: Case): Case {
  const round = (x: Float32Array<ArrayBuffer>) => x.map((value) => Math.round(value * 4));
  return { ...c, h: round(c.h), items: round(c.items), bias: c.bias && round(c.bias) };
}

async function compute(
  device: Gpu,
  c: Case,
  k: number,
  words: Uint32Array<ArrayBuffer> | null,
  items?: Tensor,
) {
  const step = device.step("rank");
  const h = step.upload(c.h, [c.queries, c.width]);
  const rows = items ?? step.upload(c.items, [c.count, c.width]);
  const bias = c.bias && step.upload(c.bias);
  const seen = c.seen && ragged(step, c.seen);
  const ranks = rankTargets(step, h, rows, step.upload(c.target), { bias, seen });
  const top = topItems(step, h, rows, k, { bias, seen, allowed: words && step.upload(words) });
  const counts = [ranks.above, ranks.equal, ranks.nonFinite, top.ids, top.nonFinite].map((x) => step.read(x));
  const scores = step.readFloats(top.scores);
  await step.submit();
  const [above, equal, nonFinite, ids, topNonFinite] = await Promise.all(counts);
  return { above, equal, nonFinite, ids, scores: await scores, topNonFinite };
}

/** Every third item and the first, as bits. */
function everyThird(count: number): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(count / 32));
  for (let i = 0; i < count; i += 3) words[i >> 5] |= 1 << (i & 31);
  return words;
}

function slices(c: Case, queries: number) {
  return {
    h: c.h.slice(0, queries * c.width),
    target: c.target.slice(0, queries),
    seen: c.seen?.slice(0, queries) ?? null,
  };
}

for (const { name: way, open } of await itemSetWays()) {
  const gpu = await open();
  t.after(() => gpu.close());
  for (const [queries, count, width, k, biased, seen, masked] of [
    [1, 1, 1, 1, false, false, false],
    [2, 1, 3, 4, true, false, false],
    [3, 7, 5, 7, true, true, false],
    [37, 131, 8, 10, false, true, true],
    [5, 2051, 4, 300, true, true, false],
    [3, 1500, 16, 1000, false, false, true],
    [67, 403, 12, 1, true, true, true],
    [2, 5003, 3, 64, false, true, false],
  ] as const) {
    const name = `${way}: B ${queries} I ${count} d ${width} k ${k}${biased ? ", bias" : ""}${seen ? ", seen" : ""}${masked ? ", allowed" : ""}`;
    t(`${name}: ranks and lists are exact`, async () => {
      const c = whole(example(queries, count, width, biased, seen));
      const s = scores(c);
      const words = masked ? everyThird(count) : null;
      const found = await compute(gpu, c, k, words);
      const { above, equal } = expectedCounts(c, s);
      assert.equal(found.above, above);
      assert.equal(found.equal, equal);
      assert.equal(found.nonFinite, new Uint32Array(queries));
      const { ids, best } = expectedTop(c, s, k, (i) => !masked || i % 3 === 0);
      assert.equal(found.ids, ids);
      assert.equal(found.scores, best);
      assert.equal(found.topNonFinite, new Uint32Array(queries));
    });
  }

  for (const [count, width] of [
    [700, 16],
    [703, 16],
    [701, 31],
  ]) {
    t(
      `${way}: twins tie exactly wherever they lie, and with their target, I ${count} d ${width}`,
      async () => {
        // Real numbers now: every score rounds. Twins of the target must still tie, in a tile's body and in its odd end.
        const c = example(40, count, width, true, false);
        const twins = (target: number) => {
          const same = (i: number) =>
            c.bias![i] === c.bias![target] &&
            Array.from(
              { length: width },
              (_, k) => c.items[i * width + k] === c.items[target * width + k],
            ).every(Boolean);
          return Array.from({ length: count }, (_, i) => i).filter((i) => i !== target && same(i)).length;
        };
        assert.ok(twins(0) > 10);
        const found = await compute(gpu, c, 5, null);
        assert.equal(found.equal, Uint32Array.from(c.target, twins));
        const step = gpu.step("scores");
        const exact = linear(
          step,
          step.upload(c.h, [c.queries, width]),
          step.upload(c.items, [count, width]),
          step.upload(c.bias!),
        );
        const s = step.readFloats(exact);
        await step.submit();
        assert.equal(found.above, expectedCounts(c, await s).above);
      },
    );
  }

  for (const width of [31, 32])
    t(`${way}: f16 items of width ${width}, windows past the binding limit`, async () => {
      const c = whole(example(21, 1203, width, true, true));
      const halves = Uint32Array.from(packHalves(floatsToHalves(c.items).halves));
      assert.is(halfToFloat(halves[0] & 0xffff), c.items[0]);
      const small = await open({ maxBindingBytes: 40_000 });
      try {
        const whole = await compute(gpu, c, 50, null);
        const { above, equal } = expectedCounts(c, scores(c));
        assert.equal(whole.above, above);
        assert.equal(whole.equal, equal);
        for (const [dtype, data] of [
          ["f16", halves],
          ["f32", c.items],
        ] as const) {
          const items = small.parameter([c.count, c.width], dtype, data);
          assert.equal(await compute(small, { ...c, queries: 7, ...slices(c, 7) }, 50, null, items), {
            above: whole.above.slice(0, 7),
            equal: whole.equal.slice(0, 7),
            nonFinite: whole.nonFinite.slice(0, 7),
            ids: whole.ids.slice(0, 350),
            scores: whole.scores.slice(0, 350),
            topNonFinite: whole.topNonFinite.slice(0, 7),
          });
          small.release(items);
        }
      } finally {
        small.close();
      }
    });

  t(`${way}: scores that are not finite are counted and listed nowhere`, async () => {
    const c = { ...example(3, 200, 4, false, false), target: Uint32Array.from([1, 1, 1]) };
    c.items.fill(Number.NaN, 0, 4);
    c.items.fill(Number.POSITIVE_INFINITY, 4 * 150, 4 * 151);
    const found = await compute(gpu, c, 200, null);
    assert.equal(found.nonFinite, Uint32Array.from([2, 2, 2]));
    assert.equal(found.topNonFinite, found.nonFinite);
    for (let q = 0; q < 3; q++) {
      const list = [...found.ids.subarray(q * 200, (q + 1) * 200)];
      assert.not.ok(list.includes(0) || list.includes(150));
      assert.equal(list.slice(198), [NO_ITEM, NO_ITEM]);
      assert.is(new Set(list).size, 199);
    }
  });

  t(`${way}: a list of 0 or 1001 items is refused`, () => {
    const step = gpu.step("refused");
    const h = step.upload(noise(4, 1), [1, 4]);
    for (const k of [0, 1001, 2.5]) assert.throws(() => topItems(step, h, h, k), /expected 1 to 1000/);
    return step.submit();
  });
}

t.run();
