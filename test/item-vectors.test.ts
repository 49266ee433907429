/** Item vectors made elsewhere: matched to the data by id, read without context, and refused by name. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { floatsToHalves } from "../src/files/half.ts";
import { type TensorToWrite, writeSafetensors } from "../src/files/safetensors.ts";
import { UserError } from "../src/files/user-error.ts";
import { canRank, type Recommender } from "../src/recommenders/recommender.ts";
import { readItemVectors } from "../src/train/item-vectors.ts";
import { loadRecommender, saveVectors } from "../src/train/recommender-file.ts";
import { chains } from "./chains.ts";
import { openTestGpu } from "./gpu.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("item vectors");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const home = temporaryFolder();
const path = (name: string) => join(home, name);
/** Items i0 to i8. */
const data = chains(6, 9);
const WIDTH = 5;

/** Row n is n + 0.25, n + 0.5, ...: exact in f16. */
const rowOf = (n: number) => Array.from({ length: WIDTH }, (_, j) => n + j / 4);
const values = (rows: number) => Float32Array.from(Array.from({ length: rows }, (_, n) => rowOf(n)).flat());
const vectors = (rows: number): TensorToWrite => ({
  name: "items.weight",
  dtype: "F32",
  shape: [rows, WIDTH],
  data: values(rows),
});
const unknown = (width = WIDTH): TensorToWrite => ({
  name: "unknown.weight",
  dtype: "F16",
  shape: [width],
  data: floatsToHalves(new Float32Array(width).fill(0.5)).halves,
});
const ids = (...list: unknown[]) => ({ items: JSON.stringify(list) });

async function states(recommender: Recommender, histories: number[][]): Promise<number[][]> {
  const step = gpu.step("states");
  const c = recommender.hiddenStates(step, histories);
  const read = step.readFloats(c);
  await step.submit();
  const values = [...(await read)];
  assert.equal(c.shape, [histories.flat().length, recommender.width]);
  return histories.flat().map((_, r) => values.slice(r * WIDTH, (r + 1) * WIDTH));
}

t(
  "a history's C is its items' vectors; an item without one, or added later, reads the unknown row",
  async () => {
    // Rows in another order than the data's items, one of them nobody's.
    const file = path("good.safetensors");
    await writeSafetensors(file, [vectors(4), unknown()], ids("i7", "elsewhere", "i0", "i2"));
    const { settings, rows } = await readItemVectors(file, undefined, data);
    assert.equal([settings.recommender, settings.width, settings.matched], ["vectors", WIDTH, 3]);
    assert.is(await loadRecommender(gpu, data, settings, home), null);
    await saveVectors(rows, data, settings, home);
    const recommender = (await loadRecommender(gpu, data, settings, home))!;
    assert.equal([recommender.itemCount, recommender.width, canRank(recommender)], [9, WIDTH, false]);
    const half = new Array(WIDTH).fill(0.5);
    const expected = [rowOf(3), rowOf(0), half, rowOf(2), half, half, rowOf(0)];
    assert.equal(
      await states(recommender, [
        [2, 7, 1],
        [0, 9],
        [12, 7],
      ]),
      expected,
    );
    recommender.release(gpu);
    await refuse(loadRecommender(gpu, chains(7, 9), settings, home), ["it is of other data"]);
  },
);

t("without an unknown row it is the mean; F16, BF16, numbers as ids and lists of their own", async () => {
  const mean = rowOf(1);
  const bits = new Uint16Array(values(3).buffer).filter((_, i) => i % 2 === 1);
  const kinds: TensorToWrite[] = [
    vectors(3),
    { ...vectors(3), dtype: "F16", data: floatsToHalves(values(3)).halves },
    { ...vectors(3), dtype: "BF16", data: bits },
  ];
  const hashes = new Set<string>();
  for (const tensor of kinds) {
    await writeSafetensors(path("kind.safetensors"), [tensor], ids("i1", "i2", "i8"));
    const { rows, settings } = await readItemVectors(path("kind.safetensors"), undefined, data);
    assert.equal([...rows.slice(0, WIDTH)], mean, tensor.dtype);
    assert.equal([...rows.slice(WIDTH, 2 * WIDTH)], rowOf(0));
    assert.equal([...rows.slice(9 * WIDTH)], mean);
    hashes.add(settings.sha256);
  }
  await writeSafetensors(path("bare.safetensors"), [vectors(3)]);
  for (const text of ["i1\ni2\ni8\n", "i1\r\ni2\r\ni8", '["i1", "i2", "i8"]\n']) {
    writeFileSync(path("ids.txt"), text);
    hashes.add((await readItemVectors(path("bare.safetensors"), path("ids.txt"), data)).settings.sha256);
  }
  assert.is(hashes.size, 1);
  const numbered = { ...data, items: data.items.map((item, i) => ({ ...item, id: String(10 + i) })) };
  await writeSafetensors(path("numbers.safetensors"), [vectors(2)], ids(11, "12"));
  assert.is((await readItemVectors(path("numbers.safetensors"), undefined, numbered)).settings.matched, 2);
});

/** Expects a UserError with every part in it. */
async function refuse(work: Promise<unknown>, parts: readonly string[]): Promise<void> {
  await work.then(
    () => assert.unreachable(`expected: ${parts.join(", ")}`),
    (error: unknown) => {
      assert.instance(error, UserError);
      for (const part of parts) assert.ok((error as Error).message.includes(part), (error as Error).message);
    },
  );
}

t("what does not fit is refused by name", async () => {
  const all = ids(...data.items.map(({ id }) => id));
  const bad = async (tensors: TensorToWrite[], metadata: Record<string, string>, ...parts: string[]) => {
    await writeSafetensors(path("bad.safetensors"), tensors, metadata);
    await refuse(readItemVectors(path("bad.safetensors"), undefined, data), ["bad.safetensors", ...parts]);
  };
  const nine = vectors(9);
  await bad([{ ...nine, name: "embedding" }], all, "items.weight is missing", "it holds embedding");
  await bad([{ ...nine, shape: [9 * WIDTH] }], all, "shape [45]", "expected 2 axes");
  await bad([vectors(0)], ids(), "shape [0,5]", "none of them 0");
  const whole = { ...nine, dtype: "I32" as const, data: new Int32Array(9 * WIDTH) };
  await bad([whole], all, "I32, expected F32, F16 or BF16");
  await bad([nine], {}, "does not say which items", "--item-ids");
  await bad([nine], ids("i0", "i1"), "2 item ids", "9 rows");
  await bad([vectors(3)], ids("i0", "i4", "i0"), "i0 has two rows, 0 and 2");
  await bad([vectors(2)], ids("a", "b"), "none of its item ids (a, b", "is an item of chains (i0, i1, i2");
  await bad([vectors(2)], { items: "i0,i1" }, "not valid JSON");
  await bad([vectors(2)], { items: '{"i0": 0}' }, "expected a JSON list");
  await bad([vectors(2)], ids("i0", null), "entry 1 is null");
  await bad([vectors(2)], ids("i0", ""), 'entry 1 is ""');
  await bad([nine, unknown(4)], all, "unknown.weight has shape [4], expected [5]");
  const holes = values(9);
  holes[WIDTH * 7 + 2] = Number.NaN;
  await bad([{ ...nine, data: holes }], all, "row 7 of items.weight (item i7) is not finite");
  const infinite = { ...unknown(), dtype: "F32" as const, data: new Float32Array(WIDTH).fill(1 / 0) };
  await bad([nine, infinite], all, "unknown.weight is not finite");
  await writeSafetensors(path("bad.safetensors"), [nine], all);
  await refuse(readItemVectors(path("bad.safetensors"), path("ids.txt"), data), [
    "names its items itself",
    "ids.txt",
  ]);
  await writeSafetensors(path("bare.safetensors"), [nine]);
  await refuse(readItemVectors(path("bare.safetensors"), path("none.txt"), data), ["none.txt"]);
  await refuse(readItemVectors(path("nowhere.safetensors"), undefined, data), ["nowhere.safetensors"]);
});

t.run();
