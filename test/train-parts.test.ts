/** The parts of training that need no language model: orders, schedules, batches, configuration, metrics. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { expectedRank, mean, ndcg, recall, reciprocalRank } from "../src/eval/metrics.ts";
import { UserError } from "../src/files/user-error.ts";
import {
  checkConfig,
  defaultConfig,
  FIELDS,
  overlay,
  presetConfig,
  readConfigFile,
} from "../src/train/config.ts";
import { tokenBatches } from "../src/train/encode.ts";
import { epochExamples, trainingUsers } from "../src/train/examples.ts";
import { learningRate } from "../src/train/schedule.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("parts of training");

/** Users of lengths 0 to 6 whose items tell user and place. */
const sequences = Array.from({ length: 7 }, (_, user) => ({
  user,
  items: Uint32Array.from({ length: user }, (_, place) => 10 * user + place),
}));
const named = (rows: ReturnType<typeof epochExamples>) =>
  rows.map(({ user, history, target }) => `${user}: ${[...history].join(" ")} -> ${target}`);
const KEY = { seed: 1, phase: 1, epoch: 0 };

t("examples: every prefix, the last item only, or one random target a user", () => {
  const all = named(epochExamples(sequences, "all", KEY));
  const expected: string[] = [];
  for (const { user, items } of sequences) {
    for (let n = 1; n < items.length; n++)
      expected.push(`${user}: ${items.slice(0, n).join(" ")} -> ${items[n]}`);
  }
  assert.is(expected.length, 1 + 2 + 3 + 4 + 5);
  assert.equal([...all].sort(), [...expected].sort());
  assert.not.equal(all, expected);

  const last = named(epochExamples(sequences, "last", KEY));
  assert.equal([...last].sort(), [
    "2: 20 -> 21",
    "3: 30 31 -> 32",
    "4: 40 41 42 -> 43",
    "5: 50 51 52 53 -> 54",
    "6: 60 61 62 63 64 -> 65",
  ]);

  const targets = new Set<string>();
  for (let epoch = 0; epoch < 100; epoch++) {
    const rows = epochExamples(sequences, "random", { ...KEY, epoch });
    assert.equal(rows.map(({ user }) => user).sort(), [2, 3, 4, 5, 6]);
    for (const row of named(rows)) {
      assert.ok(expected.includes(row), row);
      targets.add(row);
    }
  }
  // All of them come up (each misses 100 epochs with probability (4/5)^100 at most).
  assert.is(targets.size, expected.length);
});

t("examples depend on (seed, phase, epoch) alone, and on each of them", () => {
  for (const mode of ["all", "random"] as const) {
    const rows = (key: typeof KEY) => named(epochExamples(sequences, mode, key));
    assert.equal(rows(KEY), rows({ ...KEY }));
    for (const other of [
      { ...KEY, seed: 2 },
      { ...KEY, phase: 2 },
      { ...KEY, epoch: 1 },
    ]) {
      assert.not.equal(rows(other), rows(KEY), JSON.stringify(other));
    }
  }
});

t("the share of the training data: nested, chosen by the seed, all at 1, none at 0", () => {
  const users = Uint32Array.from({ length: 40 }, (_, u) => 3 * u);
  const share = (trainShare: number, seed = 1) => [...trainingUsers(users, { trainShare, seed })];
  assert.equal(share(1), [...users]);
  assert.equal(share(0), []);
  assert.is(share(0.001).length, 1);
  let smaller: number[] = [];
  for (const part of [0.05, 0.25, 0.5, 0.99]) {
    const chosen = share(part);
    assert.is(chosen.length, Math.round(40 * part));
    assert.equal(
      chosen,
      [...new Set(chosen)].sort((a, b) => a - b),
    );
    assert.ok(chosen.every((user) => users.includes(user)));
    assert.ok(smaller.every((user) => chosen.includes(user)));
    smaller = chosen;
  }
  assert.equal(share(0.5), share(0.5));
  assert.not.equal(share(0.5), share(0.5, 2));
});

t("the learning rate: constant, linear warm-up, cosine to zero", () => {
  const settings = (schedule: "constant" | "cosine", warmupSteps: number) => ({
    learningRate: 0.5,
    schedule,
    warmupSteps,
  });
  assert.is(learningRate(settings("constant", 0), 0, 10), 0.5);
  assert.is(learningRate(settings("constant", 0), 1e6, 10), 0.5);
  const warm = [0, 1, 2, 3, 4, 5].map((update) => learningRate(settings("constant", 4), update, 10));
  assert.equal(warm, [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]);
  const cosine = (update: number) => learningRate(settings("cosine", 4), update, 12);
  assert.equal([0, 3, 4].map(cosine), [0.125, 0.5, 0.5]);
  assert.ok(Math.abs(cosine(8) - 0.25) < 1e-12);
  assert.ok(Math.abs(cosine(6) - 0.25 * (1 + Math.SQRT1_2)) < 1e-12);
  assert.ok(cosine(11) > 0 && cosine(11) < cosine(10));
  assert.ok(Math.abs(cosine(12)) < 1e-12 && Math.abs(cosine(100)) < 1e-12);
  // Warm-up longer than the phase.
  assert.is(learningRate(settings("cosine", 100), 9, 10), 0.05);
});

t("token batches: within the budget, longest first, every index once", () => {
  const lengths = [3, 9, 1, 9, 4, 20, 2, 2, 7];
  const batches = tokenBatches(lengths, 12);
  // A text longer than the budget goes alone.
  assert.equal(batches, [[5], [1], [3], [8, 4], [0, 6, 7, 2]]);
  const random = Array.from({ length: 200 }, (_, i) => 1 + ((i * 7919) % 61));
  const many = tokenBatches(random, 100);
  assert.equal(
    many.flat().sort((a, b) => a - b),
    random.map((_, i) => i),
  );
  const total = (batch: readonly number[]) => batch.reduce((sum, i) => sum + random[i], 0);
  assert.ok(many.every((batch) => total(batch) <= 100));
  const order = many.flat().map((i) => random[i]);
  assert.ok(order.every((length, i) => i === 0 || length <= order[i - 1]));
  // No batch could have taken the next text as well.
  assert.ok(many.every((batch, b) => b + 1 === many.length || total(batch) + random[many[b + 1][0]] > 100));
  assert.equal(tokenBatches([], 100), []);
});

function refused(run: () => unknown, pattern: RegExp): void {
  try {
    run();
  } catch (error) {
    assert.instance(error, UserError);
    assert.match((error as Error).message, pattern);
    assert.not.match((error as Error).message, /\n/);
    return;
  }
  assert.unreachable(`expected ${pattern}`);
}

t("presets: the paper's values are the defaults, the authors' those of their code", () => {
  assert.equal(presetConfig("paper"), defaultConfig());
  const { queryTokens, experts, activeExperts, temperature, lambda, batchSize, gates, optimizer } =
    defaultConfig();
  assert.equal(
    { queryTokens, experts, activeExperts, temperature, lambda, batchSize, gates, optimizer },
    {
      queryTokens: 32,
      experts: 8,
      activeExperts: 3,
      temperature: 0.05,
      lambda: 0.1,
      batchSize: 4,
      gates: "weights",
      optimizer: "adam",
    },
  );
  const authors = presetConfig("authors");
  const differing = (Object.keys(FIELDS) as (keyof typeof FIELDS)[]).filter(
    (name) => authors[name] !== defaultConfig()[name],
  );
  assert.equal(differing.sort(), ["gates", "loadBalancing", "optimizer", "schedule", "warmupSteps"]);
  assert.is(authors.gates, "softmax");
  assert.is(authors.loadBalancing, "batch");
  assert.is(authors.optimizer, "adamw");
  for (const name of ["papers", "constructor"])
    refused(() => presetConfig(name), new RegExp(`--preset ${name}: there are paper and authors`));
  for (const preset of ["paper", "authors"]) checkConfig(presetConfig(preset), preset);
});

t("a field that does not exist is refused, with the nearest that does", () => {
  const set = (values: Record<string, unknown>) => () => overlay(defaultConfig(), values, "run.json");
  refused(set({ batchsize: 3 }), /^run\.json: unknown field "batchsize"; did you mean batchSize\?$/);
  refused(set({ temprature: 1 }), /did you mean temperature\?/);
  refused(set({ learning_rate: 1 }), /did you mean learningRate\?/);
  refused(set({ constructor: 3 }), /unknown field "constructor"/);
  refused(set(JSON.parse('{"__proto__": 3}')), /unknown field "__proto__"/);
  assert.is(overlay(defaultConfig(), { batchSize: 3 }, "run.json").batchSize, 3);
  assert.is(defaultConfig().batchSize, 4);
});

t("values out of range or of another kind are refused by name", () => {
  const set = (values: Record<string, unknown>) => () => overlay(defaultConfig(), values, "run.json");
  refused(set({ batchSize: 0 }), /^run\.json: batchSize is 0; expected a whole number from 1$/);
  refused(set({ batchSize: 2.5 }), /batchSize is 2\.5; expected a whole number/);
  refused(set({ batchSize: "4" }), /batchSize is "4"; expected a whole number/);
  refused(set({ batchSize: null }), /batchSize is null/);
  refused(set({ experts: 65 }), /experts is 65; expected a whole number from 1 to 64/);
  refused(set({ dropout: 0.95 }), /dropout is 0\.95; expected a number from 0 to 0\.9/);
  refused(set({ temperature: 0 }), /temperature is 0; expected a number from 0\.0001/);
  refused(set({ learningRate: Number.NaN }), /learningRate/);
  refused(set({ learningRate: Number.POSITIVE_INFINITY }), /learningRate/);
  refused(set({ gates: "hard" }), /gates is "hard"; expected one of weights, softmax, normalized/);
  refused(set({ prefix: 1 }), /prefix is 1; expected one of mformer, free, none/);
  refused(set({ clip: -1 }), /clip is -1; expected a number above 0, or off/);
  refused(set({ clip: Number.POSITIVE_INFINITY }), /clip is Infinity; expected a number above 0, or off/);
  const good = { clip: 1.5, dropout: 0.9, experts: 64, gates: "normalized", learningRate: 0 };
  for (const [name, value] of Object.entries(good)) {
    assert.is(overlay(defaultConfig(), { [name]: value }, "x")[name as "clip"], value as number);
  }
  assert.is(overlay({ ...defaultConfig(), clip: 1 }, { clip: "off" }, "x").clip, null);
  assert.is(overlay({ ...defaultConfig(), clip: 1 }, { clip: null }, "x").clip, null);
});

t("fields that contradict each other are refused", () => {
  const check = (values: object) => () => checkConfig({ ...defaultConfig(), ...values }, "run.json");
  refused(check({ experts: 2 }), /^run\.json: activeExperts is 3, more than experts \(2\)/);
  refused(check({ mformerWidth: 100 }), /mformerWidth 100 does not split into 12 heads/);
  // Whole heads, but of 6.
  refused(check({ mformerWidth: 72 }), /mformerWidth 72 does not split into 12 heads of a multiple of 4/);
  refused(
    () => overlay(defaultConfig(), { trainShare: 1.5 }, "x"),
    /trainShare is 1.5; expected a number from 0 to 1/,
  );
  for (const pooling of ["mean", "eos"]) {
    refused(check({ prefix: "none", pooling }), /with prefix none, pooling (mean|eos) and no projection/);
    check({ prefix: "none", pooling, projection: true })();
    check({ prefix: "free", pooling })();
  }
  check({ prefix: "none" })();
  // Zero-shot.
  check({ phase1Epochs: 0, phase2Epochs: 0 })();
  check({ experts: 3, mformerWidth: 96 })();
  check({ phase1Epochs: 0 })();
});

t("a config file that is missing or no JSON object is refused by name", async () => {
  const folder = temporaryFolder();
  const file = (name: string, text: string) => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  const message = (path: string) =>
    readConfigFile(path).then(
      () => "",
      (error: unknown) => (error instanceof UserError ? error.message : `not a UserError: ${error}`),
    );
  assert.match(await message(join(folder, "none.json")), /none\.json: cannot be read \(ENOENT\)/);
  assert.match(await message(file("bad.json", "{batchSize: 3}")), /bad\.json: not valid JSON/);
  for (const text of ["[1]", "3", "null"]) {
    assert.match(await message(file("array.json", text)), /array\.json: expected a JSON object of fields/);
  }
  assert.equal(await readConfigFile(file("good.json", '{"batchSize": 3}')), { batchSize: 3 });
});

t("metrics by hand", () => {
  assert.equal(
    [1, 5, 5.5, 6].map((rank) => recall(rank, 5)),
    [1, 1, 0, 0],
  );
  assert.equal(
    [1, 3, 7, 11].map((rank) => ndcg(rank, 10)),
    [1, 1 / 2, 1 / 3, 0],
  );
  assert.ok(Math.abs(ndcg(1.5, 10) - 0.7564707973660298) < 1e-15);
  assert.is(reciprocalRank(8), 0.125);
  assert.is(expectedRank(0, 0), 1);
  // Two score higher, three the same: between rank 3 and rank 6.
  assert.is(expectedRank(2, 3), 4.5);
  assert.is(mean([1, 2, 4], reciprocalRank), (1 + 1 / 2 + 1 / 4) / 3);
  assert.is(mean([], reciprocalRank), 0);
});

t.run();
