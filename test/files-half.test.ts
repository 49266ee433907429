import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  bfloatsToFloats,
  floatsToHalves,
  floatToHalf,
  HALF_MAX,
  halfToFloat,
  halvesToFloats,
  packHalves,
} from "../src/files/half.ts";

const t = suite("16-bit floats");
const all = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** The value of a bit pattern with `exponentBits` of exponent and `mantissaBits` of mantissa, from the definition. */
function decode(pattern: number, exponentBits: number, mantissaBits: number): number {
  const sign = pattern >>> (exponentBits + mantissaBits) ? -1 : 1;
  const exponent = (pattern >>> mantissaBits) & (2 ** exponentBits - 1);
  const fraction = (pattern & (2 ** mantissaBits - 1)) / 2 ** mantissaBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === 2 ** exponentBits - 1) return fraction ? Number.NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction) * 2 ** (exponent - bias) : fraction * 2 ** (1 - bias));
}

t("all 65536 f16 patterns widen to their value", () => {
  const floats = halvesToFloats(all);
  for (let i = 0; i < 65536; i++) {
    const expected = decode(i, 5, 10);
    if (!Object.is(floats[i], expected))
      assert.unreachable(`pattern ${i}: ${floats[i]}, expected ${expected}`);
    if (!Object.is(halfToFloat(i), expected)) assert.unreachable(`halfToFloat(${i})`);
  }
});

t("all 65536 bf16 patterns widen to their value", () => {
  const floats = bfloatsToFloats(all);
  for (let i = 0; i < 65536; i++) {
    const expected = decode(i, 8, 7);
    if (!Object.is(floats[i], expected))
      assert.unreachable(`pattern ${i}: ${floats[i]}, expected ${expected}`);
  }
});

t("every f16 value comes back to its own pattern", () => {
  const { halves, overflow } = floatsToHalves(halvesToFloats(all));
  assert.is(overflow, -1);
  for (let i = 0; i < 65536; i++) {
    const nan = (i & 0x7fff) > 0x7c00;
    if (nan ? (halves[i] & 0x7fff) <= 0x7c00 : halves[i] !== i)
      assert.unreachable(`pattern ${i}: ${halves[i]}`);
  }
});

t("between every two neighbours: nearest, and the tie goes to the even one", () => {
  const float = new Float32Array(1);
  const word = new Uint32Array(float.buffer);
  const nudge = (value: number, ulps: number) => {
    float[0] = value;
    word[0] += ulps;
    return float[0];
  };
  for (let low = 0; low < 0x7bff; low++) {
    // The middle of two f16 neighbours is exact in f32.
    const middle = (decode(low, 5, 10) + decode(low + 1, 5, 10)) / 2;
    const even = low & 1 ? low + 1 : low;
    const got = [nudge(middle, -1), middle, nudge(middle, 1)].map(floatToHalf);
    if (got[0] !== low || got[1] !== even || got[2] !== low + 1) assert.unreachable(`${low}: ${got}`);
    if (floatToHalf(-middle) !== (0x8000 | even)) assert.unreachable(`-${low}`);
  }
});

t("overflow is reported by index, once, and only for finite values", () => {
  const fits = Float32Array.of(HALF_MAX, -HALF_MAX, 65519.996, Infinity, Number.NaN);
  assert.is(floatsToHalves(fits).overflow, -1);
  assert.equal([...floatsToHalves(fits).halves.subarray(0, 4)], [0x7bff, 0xfbff, 0x7bff, 0x7c00]);
  const beyond = floatsToHalves(Float32Array.of(0, Infinity, -65520, 1e30));
  assert.is(beyond.overflow, 2);
  assert.equal([...beyond.halves], [0, 0x7c00, 0xfc00, 0x7c00]);
});

t("packs the even element low, and pads an odd one", () => {
  assert.equal([...packHalves(Uint16Array.of(0x1234, 0xabcd, 0x0001))], [0xabcd1234, 0x0001]);
  assert.is(packHalves(new Uint16Array(0)).length, 0);
});

t("fills a given array", () => {
  const floats = new Float32Array(4).subarray(1, 3);
  assert.is(halvesToFloats(Uint16Array.of(0x3c00, 0xc000), floats), floats);
  assert.equal([...floats], [1, -2]);
  assert.equal([...bfloatsToFloats(Uint16Array.of(0x3f80, 0xc000), floats)], [1, -2]);
  const halves = new Uint16Array(2);
  floatsToHalves(floats, halves);
  assert.equal([...halves], [0x3c00, 0xc000]);
});

t.run();
