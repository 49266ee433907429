import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Random } from "../src/data/random.ts";

const t = suite("data: random");

t("xoshiro128** gives the published sequence from state 1, 2, 3, 4", () => {
  const random = Random.from([1, 2, 3, 4]);
  const reference = xoshiro([1n, 2n, 3n, 4n]);
  assert.is(random.u32(), 11520, "the first number, by hand: rotl(2 x 5, 7) x 9");
  assert.is(Number(reference()), 11520);
  for (let k = 0; k < 1000; k++) assert.is(random.u32(), Number(reference()));
});

t("streams are named by their keys and can be continued", () => {
  const draw = (random: Random): number[] => Array.from({ length: 5 }, () => random.u32());
  assert.equal(draw(new Random(1, "order", 7)), draw(new Random(1, "order", 7)));
  const names: (string | number)[][] = [[1], ["1"], [1, "a"], [1, "b"], ["1a"], [1, 0], []];
  assert.is(new Set(names.map((keys) => draw(new Random(...keys)).join())).size, names.length);
  const random = new Random("seed");
  random.u32();
  const state = random.state();
  assert.equal(draw(random), draw(Random.from(state)));
});

t("below, uniform, normal and weighted have the right distribution", () => {
  const random = new Random("distribution");
  const n = 60_000;
  const counts = new Array<number>(6).fill(0);
  for (let k = 0; k < n; k++) counts[random.below(6)]++;
  // Five standard deviations of a binomial count.
  for (const count of counts) assert.ok(Math.abs(count - n / 6) < 5 * Math.sqrt((n * 5) / 36), `${counts}`);
  let sum = 0;
  let squares = 0;
  for (let k = 0; k < n; k++) {
    const x = random.normal();
    sum += x;
    squares += x * x;
    const u = random.uniform();
    assert.ok(u >= 0 && u < 1);
  }
  assert.ok(Math.abs(sum / n) < 5 / Math.sqrt(n) && Math.abs(squares / n - 1) < 5 * Math.sqrt(2 / n));
  let heavy = 0;
  for (let k = 0; k < n; k++) {
    const index = random.weighted([0, 1, 0, 3, 0]);
    assert.ok(index === 1 || index === 3, "an item of weight 0 is never drawn");
    if (index === 3) heavy++;
  }
  assert.ok(Math.abs(heavy - 0.75 * n) < 5 * Math.sqrt(n * 0.75 * 0.25));
});

t("a permutation holds every index once, and each place is uniform", () => {
  const random = new Random("permutation");
  const places = new Array<number>(5).fill(0);
  const n = 20_000;
  for (let k = 0; k < n; k++) {
    const order = random.permutation(5);
    assert.equal([...order].sort(), [0, 1, 2, 3, 4]);
    places[order.indexOf(4)]++;
  }
  for (const count of places) assert.ok(Math.abs(count - n / 5) < 5 * Math.sqrt((n * 4) / 25), `${places}`);
  assert.equal([...random.permutation(0)], []);
});

/** xoshiro128** in exact integers, written from its definition. */
function xoshiro(s: bigint[]): () => bigint {
  const mask = 0xffffffffn;
  const rotl = (x: bigint, k: bigint): bigint => ((x << k) | (x >> (32n - k))) & mask;
  return () => {
    const result = (rotl((s[1] * 5n) & mask, 7n) * 9n) & mask;
    const shifted = (s[1] << 9n) & mask;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotl(s[3], 11n);
    return result;
  };
}

t.run();
