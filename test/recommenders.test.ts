/** BERT4Rec and SASRec as frozen recommenders: what their hidden states and rankings depend on. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Random } from "../src/data/random.ts";
import type { Step } from "../src/gpu/step.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import { batchesOf } from "../src/recommenders/batches.ts";
import { Bert4Rec } from "../src/recommenders/bert4rec.ts";
import { clozeBatches } from "../src/recommenders/cloze.ts";
import { nextItemBatches } from "../src/recommenders/next-item.ts";
import type { TrainableRecommender } from "../src/recommenders/recommender.ts";
import { SasRec } from "../src/recommenders/sasrec.ts";
import { openTestGpu } from "./gpu.ts";

const t = suite("recommenders");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const ITEMS = 30;
const WIDTH = 16;
const sizes = { items: ITEMS, width: WIDTH, heads: 2, blocks: 2, maxLength: 12, dropout: 0.5 };
const bert4rec = new Bert4Rec(sizes);
const sasrec = new SasRec(sizes);
for (const { parameters } of [bert4rec, sasrec]) {
  parameters.build(gpu, 3);
  // Wider than the initial values, or every state would be nearly the same.
  const values = (await gpu.read(parameters.values)) as Float32Array<ArrayBuffer>;
  const wide = new Map(
    [...parameters.split(values)].map(([name, { shape, data }]) => {
      const factor = name.endsWith(".weight") && !name.includes("norm") ? 10 : 1;
      return [name, { shape, data: data.map((value) => factor * value) }];
    }),
  );
  gpu.write(
    parameters.values,
    parameters.join((name) => wide.get(name), "test"),
  );
}

/** Runs a recording and reads its result. */
async function valuesFrom(
  record: (step: Step) => Tensor,
): Promise<{ shape: readonly number[]; values: Float32Array }> {
  const step = gpu.step("test");
  const tensor = record(step);
  const read = step.readFloats(tensor);
  await step.submit();
  return { shape: tensor.shape, values: await read };
}

/** The hidden state of every item of a history. */
async function states(model: TrainableRecommender, history: readonly number[]): Promise<Float32Array[]> {
  const { shape, values } = await valuesFrom((step) => model.hiddenStates(step, [history]));
  assert.equal(shape, [history.length, WIDTH]);
  return history.map((_, i) => values.slice(WIDTH * i, WIDTH * (i + 1)));
}

for (const model of [bert4rec, sasrec]) {
  t(`${model.label}: a row an item; a batch gives each history the bits it has alone`, async () => {
    const random = new Random(1, "histories");
    const histories = [1, 12, 5, 1, 7, 12, 3, 9].map((n) =>
      Array.from({ length: n }, () => random.below(ITEMS)),
    );
    const hidden = () => valuesFrom((step) => model.hiddenStates(step, histories));
    const { shape, values } = await hidden();
    assert.equal(shape, [50, WIDTH]);
    const alone = [];
    for (const history of histories) alone.push(...(await states(model, history)));
    alone.forEach((row, r) => {
      assert.equal(values.slice(r * WIDTH, (r + 1) * WIDTH), row, `row ${r}`);
    });
    // No dropout, whatever the model's rate.
    assert.equal((await hidden()).values, values);
  });

  t(`${model.label}: an item it cannot know is read as the id after the last item`, async () => {
    const unknown = await states(model, [4, ITEMS, 6]);
    assert.equal(await states(model, [4, ITEMS + 5, 6]), unknown);
    const seen = await states(model, [4, 5, 6]);
    assert.not.equal(seen, unknown);
    // Training never showed item 5.
    const counts = new Uint32Array(ITEMS).fill(2);
    counts[5] = 0;
    model.setKnown(counts);
    assert.equal(await states(model, [4, 5, 6]), unknown);
    model.setKnown(new Uint32Array(ITEMS).fill(1));
    assert.equal(await states(model, [4, 5, 6]), seen);
  });

  t(
    `${model.label}: ranking reads the newest items that fit; hidden states refuse what is too long`,
    async () => {
      const long = Array.from({ length: 40 }, (_, i) => i % ITEMS);
      const ranked = async (history: number[]) =>
        (await valuesFrom((step) => model.ranking(step, [history]).h)).values;
      // BERT4Rec needs a position for the mask.
      const fit = model === bert4rec ? 11 : 12;
      assert.equal(await ranked(long), await ranked(long.slice(-fit)));
      assert.not.equal(await ranked(long), await ranked(long.slice(-fit + 1)));
      const step = gpu.step("too long");
      assert.throws(() => model.hiddenStates(step, [long]), /a history of 40 items; expected 1 to 12/);
      assert.throws(() => model.hiddenStates(step, [[]]), /a history of 0 items/);
      await step.submit();
    },
  );
}

t("BERT4Rec's states depend on items before and after, and on their order", async () => {
  const [first, , third] = await states(bert4rec, [1, 2, 3]);
  assert.not.equal((await states(bert4rec, [1, 2, 4]))[0], first);
  assert.not.equal((await states(bert4rec, [4, 2, 3]))[2], third);
  assert.not.equal((await states(bert4rec, [2, 1, 3]))[2], third);
});

t("SASRec is causal: a later item changes nothing earlier, to the bit; an earlier one does", async () => {
  const history = [1, 2, 3, 4, 5, 6, 7];
  const before = await states(sasrec, history);
  for (let changed = 0; changed < history.length; changed++) {
    const other = await states(sasrec, history.with(changed, 9));
    before.forEach((row, i) => {
      if (i < changed) assert.equal(other[i], row, `item ${changed} changed state ${i}`);
      else assert.not.equal(other[i], row, `item ${changed} did not change state ${i}`);
    });
  }
  assert.not.equal((await states(sasrec, [2, 1, 3]))[2], (await states(sasrec, [1, 2, 3]))[2]);
});

t("SASRec ranks with the hidden state of the last item, against its items without padding", async () => {
  const history = [3, 1, 4, 1, 5];
  const step = gpu.step("ranking");
  const { h, items, bias } = sasrec.ranking(step, [history]);
  assert.equal([h.shape, items.shape, bias], [[1, WIDTH], [ITEMS, WIDTH], null]);
  const read = step.readFloats(h);
  await step.submit();
  assert.equal(await read, (await states(sasrec, history))[4]);
});

const random = new Random(1, "sequences");
const sequences = Array.from({ length: 23 }, () =>
  Uint32Array.from({ length: 2 + random.below(19) }, () => random.below(ITEMS)),
);

t("batches: as full as both limits allow, at least one sequence each, all of them once", () => {
  const order = Uint32Array.of(4, 2, 0, 5, 1, 3);
  const lengths = [3, 1, 9, 2, 4, 5];
  const cut = (batchSize: number, batchItems: number) =>
    [...batchesOf(order, lengths, { batchSize, batchItems })].map((batch) => [...batch]);
  assert.equal(cut(6, 100), [[4, 2, 0, 5, 1, 3]]);
  assert.equal(cut(4, 100), [
    [4, 2, 0, 5],
    [1, 3],
  ]);
  assert.equal(cut(6, 8), [[4], [2], [0, 5], [1, 3]]);
  assert.equal(cut(6, 12), [[4], [2, 0], [5, 1, 3]]);
  assert.equal(cut(2, 13), [
    [4, 2],
    [0, 5],
    [1, 3],
  ]);
  assert.equal([...batchesOf(new Uint32Array(0), [], { batchSize: 1, batchItems: 1 })], []);
  // The items that count are those that the model reads.
  const settings = { loss: "cross-entropy", maxLength: 2, batchSize: 9, batchItems: 4, seed: 1 } as const;
  for (const batch of nextItemBatches(sequences, ITEMS, settings, 0)) assert.ok(batch.targets.length <= 4);
});

t("next item: the targets are one place on, of the newest that fit; every sequence once an epoch", () => {
  const settings = { loss: "cross-entropy", maxLength: 12, batchSize: 5, batchItems: 1000, seed: 1 } as const;
  const epoch = (n: number) => [...nextItemBatches(sequences, ITEMS, settings, n)];
  const batches = epoch(0);
  assert.is(batches.length, 5);
  const rebuilt = batches.flatMap((batch) => {
    assert.is(batch.negatives, null);
    let row = 0;
    return batch.sequences.map((inputs) => {
      const targets = batch.targets.slice(row, row + inputs.length);
      row += inputs.length;
      assert.equal(targets.slice(0, -1), inputs.slice(1));
      return [...inputs, targets.at(-1)].join();
    });
  });
  assert.equal(rebuilt.sort(), sequences.map((sequence) => sequence.slice(-13).join()).sort());
  assert.equal(epoch(0), batches);
  assert.not.equal(epoch(1), batches);
});

t("next item: a negative is an item that its user's whole training sequence does not have", () => {
  const settings = { loss: "binary", maxLength: 4, batchSize: 7, batchItems: 1000, seed: 1 } as const;
  const used = new Set<number>();
  for (const { sequences: inputs, targets, negatives } of nextItemBatches(sequences, ITEMS, settings, 3)) {
    assert.is(negatives!.length, targets.length);
    let row = 0;
    for (const input of inputs) {
      const own = sequences.find((sequence) =>
        input.every((item, i) => sequence.at(-1 - input.length + i) === item),
      )!;
      for (let i = 0; i < input.length; i++) {
        assert.not.ok(own.includes(negatives![row]), `row ${row}`);
        used.add(negatives![row++]);
      }
    }
  }
  assert.ok(used.size > 20);
  // A user of every item: any but the target will do.
  const all = [Uint32Array.of(0, 1, 2)];
  for (const { targets, negatives } of nextItemBatches(all, 3, settings, 0)) {
    assert.ok(negatives!.every((item, i) => item < 3 && item !== targets[i]));
  }
});

t("cloze: what is masked is what is asked for, at least one item of every sequence", () => {
  const mask = ITEMS;
  const epoch = (lastOnly: number) => [
    ...clozeBatches(sequences, mask, { maskRate: 0.3, lastOnly, batchSize: 6, batchItems: 1000, seed: 2 }, 0),
  ];
  const masked: boolean[][] = [];
  const rebuilt = epoch(0.5).flatMap(({ sequences: inputs, maskedRows, targets }) => {
    const flat = inputs.flat();
    const rows = flat.flatMap((id, row) => (id === mask ? [row] : []));
    assert.equal([...maskedRows], rows);
    for (const input of inputs) masked.push(input.map((id) => id === mask));
    maskedRows.forEach((row, n) => {
      flat[row] = targets[n];
    });
    let end = 0;
    return inputs.map(({ length }) => {
      end += length;
      return flat.slice(end - length, end).join();
    });
  });
  assert.equal(rebuilt.sort(), sequences.map((sequence) => sequence.join()).sort());
  assert.ok(masked.every((flags) => flags.includes(true)));
  const lastAlone = (flags: boolean[]) => flags.indexOf(true) === flags.length - 1;
  assert.ok(masked.some(lastAlone) && !masked.every(lastAlone));
  for (const { sequences: inputs } of epoch(1)) {
    assert.ok(inputs.every((input) => lastAlone(input.map((id) => id === mask))));
  }
});

t.run();
