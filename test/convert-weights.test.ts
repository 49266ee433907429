/** Weights of a checkpoint's file stored by the GPU: to the bit what the host makes of them, and refused where it refuses. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { bfloatsToFloats, floatsToHalves, halvesToFloats } from "../src/files/half.ts";
import { BITS, bytesOf, isQuantized, type QuantizedType } from "../src/gpu/tensor.ts";
import { packWeights, WEIGHT_STORAGES, type WeightStorage } from "../src/llm/weight-stream.ts";
import { FILE_BITS, type FileType, storeWeights } from "../src/ops/convert-weights.ts";
import { noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";

const t = suite("weights stored by the GPU");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const TYPES = Object.keys(FILE_BITS) as FileType[];

/** A file's bytes as words, and the numbers they stand for. */
interface Source {
  readonly words: Uint32Array<ArrayBuffer>;
  readonly values: Float32Array<ArrayBuffer>;
}

/** From bit patterns of a type. */
function sourceOf(type: FileType, patterns: ArrayLike<number>): Source {
  if (type === "F32") {
    const words = Uint32Array.from(patterns);
    return { words, values: new Float32Array(words.buffer) };
  }
  const halves = Uint16Array.from(patterns);
  const values = type === "F16" ? halvesToFloats(halves) : bfloatsToFloats(halves);
  return { words: new Uint32Array(halves.buffer), values: Float32Array.from(values) };
}

const bitsOf = (values: Float32Array<ArrayBuffer>) => new Uint32Array(values.buffer);

/** Numbers as patterns of a type: rounded to f16, cut to bf16. */
function patternsOf(type: FileType, values: Float32Array<ArrayBuffer>): Uint16Array | Uint32Array {
  if (type === "F16") return floatsToHalves(values).halves;
  return type === "F32" ? bitsOf(values) : Uint16Array.from(bitsOf(values), (word) => word >>> 16);
}

/** What is made of rows of `width`, between 16 bytes that must stay what they are, and whether any was refused. */
async function store(type: FileType, { words }: Source, width: number, storage: WeightStorage) {
  const rows = (32 * words.length) / FILE_BITS[type] / width;
  const bytes = bytesOf([rows, width], storage);
  const before = Uint32Array.from({ length: 8 + bytes / 4 }, (_, i) => 7 * i + 1);
  const target = gpu.parameter([before.length], "u32", before);
  const scratch = gpu.parameter([words.length], "u32");
  const found = gpu.parameter([3], "u32");
  const step = gpu.step("store");
  const from = { type, rows, width };
  storeWeights(
    step,
    step.upload(words),
    scratch,
    from,
    { tensor: target, byte: 16, storage },
    { tensor: found, at: 1 },
  );
  const reads = [step.read(target), step.read(found)];
  await step.submit();
  const [all, refused] = await Promise.all(reads);
  for (const tensor of [target, scratch, found]) gpu.release(tensor);
  const end = 4 + bytes / 4;
  for (const i of [0, 1, 2, 3, end, end + 1, end + 2, end + 3]) assert.is(all[i], before[i], "a neighbour");
  assert.equal([refused[0], refused[2]], [0, 0], "another's word");
  return { made: Uint32Array.from(all.subarray(4, end)), refused: refused[1] };
}

/** Holds what the GPU makes to what the host makes, word by word. */
async function assertStored(type: FileType, source: Source, width: number, storage: WeightStorage) {
  const { made, refused } = await store(type, source, width, storage);
  const expected = packWeights(source.values, width, storage);
  const words = new Uint32Array(expected.buffer);
  const off = words.findIndex((word, i) => word !== made[i]);
  assert.is(
    off,
    -1,
    `${type} to ${storage}, width ${width}: word ${off} is ${made[off]}, expected ${words[off]}`,
  );
  assert.is(made.length, words.length);
  assert.is(refused, 0, "refused");
}

/** F32 patterns at, beside and between all f16, to just below where f16 ends. */
function nearHalves(): number[] {
  const patterns: number[] = [0, 1, 0x007fffff, 0x00800000, 0x33000000, 0x33000001, 0x477fefff];
  const halves = bitsOf(
    halvesToFloats(Uint16Array.from({ length: 0x7c00 }, (_, i) => i)) as Float32Array<ArrayBuffer>,
  );
  for (let h = 0; h + 1 < halves.length; h += h < 2100 || h > 30000 ? 1 : 7) {
    const middle = (halves[h] + halves[h + 1]) >>> 1;
    patterns.push(halves[h], halves[h] + 1, middle - 1, middle, middle + 1, halves[h + 1] - 1);
  }
  // Among subnormals the middle of the values is not that of the bits.
  for (let h = 0; h < 1024; h++) patterns.push(bitsOf(Float32Array.of((h + 0.5) * 2 ** -24))[0]);
  const both = patterns.flatMap((pattern) => [pattern, pattern + 0x80000000]);
  while (both.length % 8) both.push(0);
  return both;
}

const finite16 = (exponent: number) =>
  Array.from({ length: 65536 }, (_, i) => i).filter((i) => (i & exponent) !== exponent);

t("every F16 and every BF16 as f32 and as f16, F32 around every f16", async () => {
  for (const storage of ["f32", "f16"] as const) {
    await assertStored("F16", sourceOf("F16", finite16(0x7c00)), 8, storage);
    // From 65520 up there is no f16.
    const range = finite16(0x7f80).filter((i) => storage === "f32" || (i & 0x7fff) < 0x4780);
    await assertStored("BF16", sourceOf("BF16", range), 8, storage);
    await assertStored("F32", sourceOf("F32", nearHalves()), 8, storage);
  }
});

/** Rows whose groups hold what is hard to quantise: ties, zeros, subnormals, magnitudes that occur with both signs. */
function hardRows(rows: number, width: number): Float32Array<ArrayBuffer> {
  const values = noise(rows * width, rows + width);
  const scales = [1, 3e-5, 700, 2 ** -20, 1e-9, 0.013];
  for (let i = 0; i < values.length; i++) {
    const group = Math.floor((i % width) / 64) + 3 * Math.floor(i / width);
    values[i] *= scales[group % scales.length];
    // Halves of steps of a group whose largest is 1, or 1 / 3.
    if (group % 5 === 1) values[i] = (((i * 37) % 513) - 256) / 256 / (group % 2 ? 1 : 3);
    if (group % 7 === 2) values[i] = 0;
    if (group % 7 === 3) values[i] = (i % 3 ? 1 : -1) * 0.37;
    if (group % 11 === 4) values[i] = (i % 5) * 1e-41;
  }
  return values;
}

/**
 * A row of 64 for every mantissa of a scale, ordinary or subnormal as f16, that holds points half-way between two codes, and their
 * neighbours: there the nearest code is not what rounding the product with 1 / scale gives.
 */
function halfWayRows(exponent: number, bits: number): Float32Array<ArrayBuffer> {
  const q = 2 ** (bits - 1);
  const values = new Float32Array(64 * 1023);
  const words = bitsOf(values);
  for (let row = 0; row < 1023; row++) {
    const scale = exponent < -14 ? (row + 1) * 2 ** -24 : (1 + (row + 1) / 1024) * 2 ** exponent;
    values[64 * row] = row % 2 ? scale : -scale;
    for (let i = 1; i < 64; i++) {
      const code = ((7 * i + 13 * row) % q) + 0.5;
      if (code > q - 0.5) continue;
      values[64 * row + i] = ((i % 2 ? 1 : -1) * scale * code) / q;
      words[64 * row + i] += [0, 1, -1][(i + row) % 3];
    }
  }
  return values;
}

for (const storage of WEIGHT_STORAGES.filter(isQuantized) as QuantizedType[]) {
  t(`${storage} from every type`, async () => {
    for (const type of TYPES) {
      for (const [rows, width] of [
        [1, 8],
        [3, 56],
        [7, 64],
        [5, 72],
        [11, 128],
        [2, 136],
        [13, 200],
        [67, 1032],
      ]) {
        const source = sourceOf(type, patternsOf(type, hardRows(rows, width)));
        await assertStored(type, source, width, storage);
      }
    }
  });
}

t("half-way between two codes, and next to it", async () => {
  for (const exponent of [-20, -14, -3, 9]) {
    for (const storage of ["int8", "int4"] as const) {
      const rows = halfWayRows(exponent, BITS[storage]);
      await assertStored("F32", sourceOf("F32", bitsOf(rows)), 64, storage);
    }
  }
});

t("what is stored as it is, and nothing at all", async () => {
  await assertStored("F32", sourceOf("F32", bitsOf(noise(8 * 331, 5))), 8, "f32");
  await assertStored("F16", sourceOf("F16", floatsToHalves(noise(8 * 4099, 6)).halves), 8, "f16");
  for (const storage of WEIGHT_STORAGES) await assertStored("F16", sourceOf("F16", []), 8, storage);
});

t("NaN, infinite and too large numbers are refused, wherever they are", async () => {
  const count = 8 * 131;
  const refusing = async (type: FileType, pattern: number, storage: WeightStorage, at: number) => {
    const patterns = Array.from(patternsOf(type, noise(count, 3)));
    patterns[at] = pattern;
    return (await store(type, sourceOf(type, patterns), 8, storage)).refused;
  };
  // [type, pattern, refused as f32, refused as f16]
  const cases: [FileType, number, number, number][] = [
    ["F32", 0x7fc00000, 1, 1],
    ["F32", 0xff800001, 1, 1],
    ["F32", 0xff800000, 1, 1],
    ["F32", 0x7f7fffff, 0, 1],
    ["F32", 0x477ff000, 0, 1],
    ["F32", 0x477fefff, 0, 0],
    ["F16", 0x7c00, 1, 1],
    ["F16", 0xfe01, 1, 1],
    ["F16", 0xfbff, 0, 0],
    ["BF16", 0x7f80, 1, 1],
    ["BF16", 0xffc0, 1, 1],
    ["BF16", 0xc780, 0, 1],
    ["BF16", 0xc77f, 0, 0],
  ];
  for (const [type, pattern, asFloat, asHalf] of cases) {
    for (const at of [0, 7, 513, count - 1]) {
      const where = `${type} ${pattern.toString(16)} at ${at}`;
      assert.is(await refusing(type, pattern, "f32", at), asFloat, `${where} as f32`);
      assert.is(await refusing(type, pattern, "f16", at), asHalf, `${where} as f16`);
      // The scale is rounded outward: from above 65504 there is none.
      const asCodes = type === "F32" && pattern === 0x477fefff ? 1 : asHalf;
      assert.is(await refusing(type, pattern, "int8", at), asCodes, `${where} as int8`);
      assert.is(await refusing(type, pattern, "int4", at), asCodes, `${where} as int4`);
    }
  }
});

t("what is no whole groups is a mistake of the caller", () => {
  const step = gpu.step("mistakes");
  const tensor = step.tensor([64], "u32");
  const refusal = { tensor, at: 0 };
  const attempt = (rows: number, width: number, byte: number, storage: WeightStorage) => () =>
    storeWeights(step, tensor, tensor, { type: "F32", rows, width }, { tensor, byte, storage }, refusal);
  assert.throws(attempt(1, 7, 0, "f32"), /no whole groups/);
  assert.throws(attempt(2, 12, 0, "int8"), /no whole groups/);
  assert.throws(attempt(1, 8, 8, "f16"), /no whole groups/);
  return step.submit();
});

t.run();
