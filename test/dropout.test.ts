import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type DropoutKey, dropout } from "../src/ops/dropout.ts";
import { noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";

const t = suite("dropout");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** Philox4x32-10 with exact 64-bit products. */
function philox(counter: number[], seed: number[]): number[] {
  let c = counter.map(BigInt);
  let key = seed.map(BigInt);
  const word = 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const [p0, p1] = [0xd2511f53n * c[0], 0xcd9e8d57n * c[2]];
    c = [(p1 >> 32n) ^ c[1] ^ key[0], p1 & word, (p0 >> 32n) ^ c[3] ^ key[1], p0 & word];
    key = [(key[0] + 0x9e3779b9n) & word, (key[1] + 0xbb67ae85n) & word];
  }
  return c.map(Number);
}

t("the reference generator gives the known answers of its authors", () => {
  assert.equal(philox([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  const ones = 0xffffffff;
  assert.equal(
    philox([ones, ones, ones, ones], [ones, ones]),
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  );
  assert.equal(
    philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  );
});

function reference(x: Float32Array, p: number, { seed, step, site }: DropoutKey): Float32Array {
  const key = [seed % 2 ** 32, Math.floor(seed / 2 ** 32)];
  const scale = Math.fround(1 / (1 - p));
  let random: number[] = [];
  return x.map((v, i) => {
    if (i % 4 === 0) random = philox([i / 4, step, site, 0], key);
    return random[i % 4] >= Math.round(p * 2 ** 32) ? Math.fround(v * scale) : 0;
  });
}

async function run(x: Float32Array<ArrayBuffer>, p: number, key: DropoutKey): Promise<Float32Array> {
  const step = gpu.step("dropout");
  const y = step.readFloats(dropout(step, step.upload(x), p, key));
  await step.submit();
  return y;
}

for (const [n, p, key] of [
  [0, 0.5, { seed: 0, step: 0, site: 0 }],
  [1, 0.5, { seed: 0, step: 0, site: 0 }],
  [7, 0.9, { seed: 42, step: 1, site: 0 }],
  [768, 0.1, { seed: 2023, step: 12_345, site: 17 }],
  [4099, 0.25, { seed: 2 ** 53 - 1, step: 2 ** 32 - 1, site: 2 ** 32 - 1 }],
  [1031, 0, { seed: 5, step: 5, site: 5 }],
] as [number, number, DropoutKey][]) {
  t(`${n} values at rate ${p}: equal to the reference to the bit, twice`, async () => {
    const x = noise(n, 1);
    const y = await run(x, p, key);
    assert.equal(y, reference(x, p, key));
    assert.equal(await run(x, p, key), y);
  });
}

t("drops the given share, with the mean kept, and another mask for another seed, step or site", async () => {
  const n = 200_000;
  const x = new Float32Array(n).fill(1);
  const masks: Float32Array[] = [];
  const key = { seed: 1, step: 1, site: 1 };
  for (const other of [key, { ...key, seed: 2 }, { ...key, step: 2 }, { ...key, site: 2 }]) {
    const y = await run(x, 0.1, other);
    const kept = y.reduce((count, v) => count + (v === 0 ? 0 : 1), 0);
    // Five standard deviations of a binomial count.
    assert.ok(Math.abs(kept - 0.9 * n) < 5 * Math.sqrt(0.09 * n), `${kept} of ${n} kept at rate 0.1`);
    masks.push(y);
  }
  for (const mask of masks.slice(1)) {
    const both = mask.reduce((count, v, i) => count + (v === 0 && masks[0][i] === 0 ? 1 : 0), 0);
    // Independent masks drop an element both with probability 0.01.
    assert.ok(Math.abs(both - 0.01 * n) < 5 * Math.sqrt(0.0099 * n), `${both} of ${n} dropped by both masks`);
  }
});

t("a rate of 1 or more is refused", async () => {
  const step = gpu.step("refused");
  assert.throws(() => dropout(step, step.tensor([1]), 1, { seed: 0, step: 0, site: 0 }), /dropout rate of 1/);
  await step.submit();
});

t.run();
