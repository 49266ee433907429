/**
 * Every ablation and variant of Laser changes exactly what it should: its parameters, the tokens that the language
 * model reads, what h is, which gradients there are. (test/laser-variant-runs.test.ts: phases, and runs on disk.)
 */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Step } from "../src/gpu/step.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import { Laser, type LossSettings } from "../src/laser/laser.ts";
import { Texts } from "../src/laser/text.ts";
import type { Decoder } from "../src/llm/decoder.ts";
import { type PromptBatch, promptBatch } from "../src/llm/prompt.ts";
import { PREFIX_ROW, SUFFIX_ROW } from "../src/ops/embedding.ts";
import { ABLATIONS, ablationNamed } from "../src/train/ablations.ts";
import type { Config } from "../src/train/config.ts";
import { assertClose, noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import { temporaryFolder } from "./temporary.ts";
import { openTinyJob, tinyConfig } from "./tiny-parts.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("variants of Laser");
const gpu = await openTestGpu();
t.after(() => gpu.close());
const { data, recommender, backbone } = await openTinyJob(gpu, temporaryFolder());
const { decoder, tokenizer } = backbone;
const { items } = data.dataset;
assert.ok(items.length > 12, `the tiny data has ${items.length} items`);
const d = decoder.hiddenSize;
const EOS = 2;

const HISTORIES = [[3], [1, 2, 3], [7, 7], [8, 9, 10, 11], [0, 12]];
const HISTORY = 4;
const ablated = (name: string): Partial<Config> => ablationNamed(name, "test").fields;

/** What reached the parts around Laser. */
interface Seen {
  batch: PromptBatch | null;
  keep: boolean | null;
  /** The recommender was asked for C. */
  collaborative: boolean;
}

/** A Laser of a configuration, the texts of HISTORIES, and a record of what it asks of its backbone and recommender. */
function build(values: Partial<Config> = {}) {
  const config = tinyConfig({ maxHistory: HISTORY, dropout: 0, ...values });
  const seen: Seen = { batch: null, keep: null, collaborative: false };
  const spied = Object.create(decoder) as Decoder;
  spied.forward = (step, batch, prefix, suffix, keep) => {
    Object.assign(seen, { batch, keep });
    return decoder.forward(step, batch, prefix, suffix, keep);
  };
  const collaborative = (step: Step, histories: readonly (readonly number[])[]) => {
    seen.collaborative = true;
    return recommender.model.hiddenStates(step, histories);
  };
  const laser = new Laser(config, spied, collaborative, recommender.model.width);
  laser.parameters.build(gpu, 1);
  const { template, maxHistory } = config;
  const texts = new Texts(items, tokenizer, { template, maxHistory, maxTokens: 480 });
  const inputs = HISTORIES.map((history) => texts.user(history));
  return { config, laser, inputs, seen, release: () => laser.release(gpu) };
}

async function read<T>(record: (step: Step) => Promise<T>): Promise<T> {
  const step = gpu.step("test");
  const values = record(step);
  await step.submit();
  return values;
}

type Named = Record<string, string>;

/** Names and shapes of the trainable parameters. */
function listed(values: Partial<Config> = {}): Named {
  const { laser, release } = build(values);
  const list = laser.parameters.list.flatMap(({ components }) =>
    components.map(({ name, shape }) => [name, shape.join("x")] as const),
  );
  release();
  return Object.fromEntries(list.sort(([a], [b]) => (a < b ? -1 : 1)));
}

const without = (list: Named, pattern: RegExp): Named =>
  Object.fromEntries(Object.entries(list).filter(([name]) => !pattern.test(name)));
const sorted = (list: Named): Named =>
  Object.fromEntries(Object.entries(list).sort(([a], [b]) => (a < b ? -1 : 1)));

/** What each ablation's parameter list must be, from the full Laser's: K 3, L 2, d_m 8, Z 2, d_c 8. */
const LISTS: Record<string, (full: Named) => Named> = {
  "no-prefix": () => ({ suffix: `1x${d}` }),
  "mean-pooling": (full) => without(full, /^suffix$/),
  eos: (full) => without(full, /^suffix$/),
  "no-mformer": () => ({ suffix: `1x${d}`, prefix: `2x${d}` }),
  "one-expert": (full) => ({ ...full, "mformer.experts": "1x2x8", "mformer.router.weight": "1x8" }),
  "no-load-balancing": (full) => full,
  "no-phase1": (full) => full,
  "no-phase2": (full) => full,
  "no-phrase": (full) => full,
  "no-instruction": (full) => full,
  "two-instructions": (full) => full,
  "ffn-experts": (full) => {
    const list = without(full, /^mformer\.experts$|^mformer\.blocks\.\d\.(up|down)/);
    list["mformer.queries"] = "2x8";
    for (const z of [0, 1]) {
      for (const j of [0, 1, 2]) {
        const name = `mformer.blocks.${z}.experts.${j}`;
        Object.assign(list, { [`${name}.up.weight`]: "32x8", [`${name}.up.bias`]: "32" });
        Object.assign(list, { [`${name}.down.weight`]: "8x32", [`${name}.down.bias`]: "8" });
      }
    }
    return list;
  },
  projection: (full) => ({ ...full, "projection.weight": `${d}x${d}`, "projection.bias": `${d}` }),
};

t("every ablation's parameters: what it drops, adds and keeps", () => {
  assert.equal(
    Object.keys(LISTS),
    ABLATIONS.map(({ name }) => name),
  );
  const full = listed();
  for (const { name, fields } of ABLATIONS) {
    assert.equal(listed(fields), sorted(LISTS[name](full)), name);
  }
  assert.equal(listed({ suffixTokens: 3 }), { ...full, suffix: `3x${d}` });
  const wide = { ...full, "mformer.experts": "5x4x8", "mformer.router.weight": "5x8" };
  assert.equal(listed({ experts: 5, queryTokens: 4 }), wide);
  for (const values of [{ gates: "softmax" }, { loadBalancing: "batch" }, { lambda: 1 }] as const)
    assert.equal(listed(values), full);
});

t("what a variant keeps starts from the same values", async () => {
  const initial = async (values: Partial<Config>) => {
    const { laser, release } = build(values);
    const flat = (await gpu.read(laser.parameters.values)) as Float32Array;
    const named = laser.parameters.split(flat);
    release();
    return named;
  };
  const full = await initial({});
  for (const { name, fields } of ABLATIONS) {
    for (const [parameter, { shape, data }] of await initial(fields)) {
      const other = full.get(parameter);
      if (other && other.shape.join() === shape.join())
        assert.equal(data, other.data, `${name}: ${parameter}`);
    }
  }
});

t("the tokens that the language model reads: prefix, text, and suffix, EOS or nothing", async () => {
  const row = (bits: number, count: number, first = 0) =>
    Array.from({ length: count }, (_, i) => (bits | (first + i)) >>> 0);
  const cases: [Partial<Config>, (b: number) => number[], number[]][] = [
    [{}, (b) => row(PREFIX_ROW, 2, 2 * b), row(SUFFIX_ROW, 1)],
    [{ suffixTokens: 3 }, (b) => row(PREFIX_ROW, 2, 2 * b), row(SUFFIX_ROW, 3)],
    [ablated("ffn-experts"), (b) => row(PREFIX_ROW, 2, 2 * b), row(SUFFIX_ROW, 1)],
    [ablated("no-prefix"), () => [], row(SUFFIX_ROW, 1)],
    [ablated("no-mformer"), () => row(PREFIX_ROW, 2), row(SUFFIX_ROW, 1)],
    [ablated("mean-pooling"), (b) => row(PREFIX_ROW, 2, 2 * b), []],
    [ablated("eos"), (b) => row(PREFIX_ROW, 2, 2 * b), [EOS]],
    [{ ...ablated("eos"), suffixTokens: 3, queryTokens: 5 }, (b) => row(PREFIX_ROW, 5, 5 * b), [EOS]],
    [{ prefix: "none", pooling: "mean", projection: true }, () => [], []],
  ];
  for (const [values, before, after] of cases) {
    const { laser, inputs, seen, release } = build(values);
    const source = await read((step) => {
      laser.hidden(step, inputs);
      return step.read(seen.batch!.source);
    });
    const expected = inputs.flatMap(({ ids }, b) => [...before(b), ...ids, ...after]);
    assert.equal([...source], expected, JSON.stringify(values));
    const texts = inputs.reduce((sum, { ids }) => sum + ids.length, 0);
    assert.is(source.length, texts + inputs.length * laser.addedTokens);
    // C is read for the M-Former alone.
    assert.is(seen.collaborative, (values.prefix ?? "mformer") === "mformer");
    release();
  }
});

t("templates change the text: each its own, and items theirs with two instructions", () => {
  const text = (template: Config["template"]) => build({ template }).inputs.map(({ ids }) => [...ids]);
  const seen = ["paper", "no-phrase", "no-instruction", "two-instructions"].map((name) =>
    JSON.stringify(text(name as Config["template"])),
  );
  // A user's text is the paper's with two instructions, too; the item's differs (test/laser-text.test.ts).
  assert.is(seen[3], seen[0]);
  assert.is(new Set(seen.slice(0, 3)).size, 3);
});

/** All hidden states of the sequences that Laser ran, for variants whose prefix is a parameter or nothing. */
async function hiddenStates(values: Partial<Config>) {
  const { laser, inputs, release } = build(values);
  const parameter = (name: string): Tensor | null =>
    laser.parameters.list.find(({ components }) => components[0].name === name)?.value ?? null;
  const prefix = parameter("prefix");
  const suffix = parameter("suffix");
  const texts = inputs.map(({ ids }) => (values.pooling === "eos" ? [...ids, EOS] : [...ids]));
  const shape = {
    prefix: prefix?.shape[0] ?? 0,
    sharedPrefix: true,
    suffix: suffix?.shape[0] ?? 0,
  };
  const found = await read(async (step) => {
    const h = step.readFloats(laser.hidden(step, inputs));
    const states = step.readFloats(
      decoder.hiddenStates(step, promptBatch(step, texts, shape), prefix, suffix),
    );
    return { h: await h, states: await states };
  });
  const projection = ["projection.weight", "projection.bias"].map(parameter);
  const [weight, bias] = await Promise.all(
    projection.map((tensor) => (tensor ? (gpu.read(tensor) as Promise<Float32Array>) : null)),
  );
  release();
  const lengths = texts.map((ids) => shape.prefix + ids.length + shape.suffix);
  return { ...found, lengths, weight, bias };
}

/** Means of the last `count(length)` rows of each sequence, in float64. */
function means(states: Float32Array, lengths: readonly number[], count: (length: number) => number) {
  const h = new Float64Array(lengths.length * d);
  let row = 0;
  lengths.forEach((length, b) => {
    for (let i = length - count(length); i < length; i++)
      for (let c = 0; c < d; c++) h[b * d + c] += states[(row + i) * d + c] / count(length);
    row += length;
  });
  return h;
}

t("h: the mean over the suffix, over every output, or the output at EOS; and its projection", async () => {
  const all = (length: number) => length;
  const cases: [Partial<Config>, (length: number) => number][] = [
    [{ prefix: "free" }, () => 1],
    [{ prefix: "none", suffixTokens: 3 }, () => 3],
    [{ prefix: "free", pooling: "mean" }, all],
    [{ prefix: "free", pooling: "eos" }, () => 1],
    [{ prefix: "none", pooling: "mean", projection: true }, all],
    [{ prefix: "free", projection: true }, () => 1],
  ];
  for (const [values, count] of cases) {
    const { h, states, lengths, weight, bias } = await hiddenStates(values);
    const pooled = means(states, lengths, count);
    const expected = pooled.map((value, at) => {
      if (!weight || !bias) return value;
      const [b, n] = [Math.floor(at / d), at % d];
      return pooled.subarray(b * d, b * d + d).reduce((sum, x, c) => sum + x * weight[n * d + c], bias[n]);
    });
    assertClose(JSON.stringify(values), h, expected, KERNEL_F32);
  }
});

/** Gradients of one step by name, on fixed item rows. */
async function gradients(values: Partial<Config>, scope: LossSettings["loadBalancing"] = "sequence") {
  const { config, laser, inputs, seen, release } = build(values);
  const { temperature, lambda } = config;
  const targets = Uint32Array.of(4, 9, 2, 11, 5);
  const flat = await read(async (step) => {
    const E = step.upload(noise(items.length * d, 3), [items.length, d]);
    laser.trainStep(step, inputs, targets, E, { temperature, lambda, loadBalancing: scope }, null);
    laser.parameters.settleGradients(step);
    return step.readFloats(laser.parameters.gradients);
  });
  const named = laser.parameters.split(flat);
  release();
  assert.ok(flat.every(Number.isFinite), JSON.stringify(values));
  return { named, keep: seen.keep };
}

const absent = (named: Awaited<ReturnType<typeof gradients>>["named"]): string[] =>
  [...named].filter(([, { data }]) => data.every((value) => value === 0)).map(([name]) => name);

t("every parameter gets a gradient, but for a router without a choice and experts nobody chose", async () => {
  // Both kinds of experts are routed alike: where nobody chose a set of queries, nobody has that feed-forward.
  const sets = (await gradients({})).named.get("mformer.experts")!.data;
  const chosen = [0, 1, 2].map((j) => sets.subarray(16 * j, 16 * (j + 1)).some((value) => value !== 0));
  assert.ok(chosen.includes(true));
  const unused = /^mformer\.blocks\.\d\.experts\.(\d)\./;
  for (const { name, fields } of [{ name: "full", fields: {} }, ...ABLATIONS]) {
    const { named, keep } = await gradients(fields);
    const expected = [...named.keys()].filter((parameter) => {
      if (name === "one-expert") return parameter === "mformer.router.weight";
      const expert = unused.exec(parameter)?.[1];
      return expert !== undefined && !chosen[Number(expert)];
    });
    assert.equal(absent(named), expected, name);
    assert.is(keep, true, name);
  }
});

t("without virtual tokens no gradient is taken through the language model", async () => {
  for (const pooling of ["mean", "eos"] as const) {
    const { named, keep } = await gradients({ prefix: "none", pooling, projection: true });
    assert.equal(absent(named), []);
    assert.equal([...named.keys()], ["projection.weight", "projection.bias"]);
    assert.is(keep, false);
  }
});

t("without load balancing the router learns from the gates alone, and nothing else changes", async () => {
  for (const moe of ["query", "ffn"] as const) {
    const none = (await gradients({ moe, lambda: 0 })).named;
    assert.equal((await gradients({ moe, lambda: 0 }, "batch")).named, none);
    for (const scope of ["sequence", "batch"] as const) {
      const some = (await gradients({ moe }, scope)).named;
      for (const [name, { data }] of some) {
        if (name === "mformer.router.weight") assert.not.equal(data, none.get(name)!.data);
        else assert.equal(data, none.get(name)!.data, name);
      }
    }
    const router = (named: typeof none) => named.get("mformer.router.weight")!.data;
    assert.not.equal(
      router((await gradients({ moe })).named),
      router((await gradients({ moe }, "batch")).named),
    );
    // With all experts active at equal weight, the gates' gradient is there still.
    assert.not.equal(absent(none), ["mformer.router.weight"]);
  }
});

t("one feed-forward expert at gate 1 is the one set of queries at gate 1", async () => {
  const h = async (moe: Config["moe"]) => {
    const { laser, inputs, release } = build({ ...ablated("one-expert"), moe });
    const named = laser.parameters.split((await gpu.read(laser.parameters.values)) as Float32Array);
    // The same values under the names that differ.
    const seedOf = (name: string) => {
      const common = name.replace("mformer.queries", "mformer.experts").replace(".experts.0.", ".");
      return [...common].reduce((sum, letter) => (31 * sum + letter.charCodeAt(0)) % 9973, 7);
    };
    const values = laser.parameters.join((name) => {
      const { shape, data } = named.get(name)!;
      return { shape, data: noise(data.length, seedOf(name), 0.3) };
    }, "test");
    gpu.write(laser.parameters.values, values);
    const result = await read((step) => step.readFloats(laser.hidden(step, inputs)));
    release();
    return result;
  };
  const query = await h("query");
  assertClose("h", await h("ffn"), query, KERNEL_F32);
});

t.run();
