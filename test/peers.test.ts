/** bench/peers: its float64 references, who is the peer to beat, and the whole program where the peers are installed. */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { QUICK } from "../bench/peers/cases.js";
import { byHead, byRow, transposed } from "../bench/peers/heads.js";
import {
  attention,
  errorOf,
  judge,
  logSumExp,
  product,
  TOLERANCE,
  topScores,
} from "../bench/peers/reference.js";
import { lossAndGradients, losses } from "../bench/peers/reference-training.js";
import { cell, type Entry, median, table, verdict } from "../bench/peers/table.js";
import { parametersOf, tokensOf } from "../bench/peers/transformer.js";
import { repositoryPath } from "./shared.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("peers");

const close = (actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 1e-12) => {
  assert.is(actual.length, expected.length);
  for (let i = 0; i < expected.length; i++)
    assert.ok(Math.abs(actual[i] - expected[i]) <= tolerance, `${i}: ${actual[i]}, expected ${expected[i]}`);
};

t("product: by hand, and with columns that four do not divide", () => {
  // [1 2; 3 4] times the rows [1 0], [0 1], [1 1], [2 -1], [0 0] as columns.
  const y = product([1, 2, 3, 4], [1, 0, 0, 1, 1, 1, 2, -1, 0, 0], 2, 2, 5);
  close(y, [1, 2, 3, 0, 0, 3, 4, 7, 2, 0]);
});

t("log-sum-exp and the best scores", () => {
  close(logSumExp([0, 0, 1000, 1000], 2, 2), [Math.log(2), 1000 + Math.log(2)], 1e-9);
  close(topScores(Float64Array.from([3, -1, 10, 2, 7, 5, 5, -8]), 2, 4, 2), [10, 3, 7, 5]);
});

t("attention: causal, scaled, by head", () => {
  // One head of 4: scores are q . k / 2; the first query sees one key only.
  const q = [9, 9, 9, 9, 2, 0, 0, 0];
  const k = [1, 0, 0, 0, Math.log(3), 0, 0, 0];
  const v = [1, 2, 3, 4, 5, 6, 7, 8];
  const shape = { sequences: 1, queries: 2, keys: 2, heads: 1, headSize: 4, causal: true };
  const [a, b] = [Math.E / (Math.E + 3), 3 / (Math.E + 3)];
  close(
    attention({ q, k, v }, shape).o,
    [1, 2, 3, 4, a + 5 * b, 2 * a + 6 * b, 3 * a + 7 * b, 4 * a + 8 * b],
    1e-12,
  );
});

t("attention: the gradients are difference quotients", () => {
  const wave = (n: number, phase: number) =>
    Float64Array.from({ length: n }, (_, i) => Math.sin(1.3 * i + phase));
  for (const causal of [true, false]) {
    const shape = { sequences: 2, queries: 3, keys: causal ? 3 : 5, heads: 2, headSize: 2, causal };
    const inputs = { q: wave(24, 0), k: wave(8 * shape.keys, 1), v: wave(8 * shape.keys, 2) };
    const dO = wave(24, 3);
    const gradients = attention({ ...inputs, dO }, shape);
    const value = () => attention(inputs, shape).o.reduce((sum, o, i) => sum + o * dO[i], 0);
    for (const name of ["q", "k", "v"] as const)
      for (const i of [0, 5, 13]) {
        const before = inputs[name][i];
        inputs[name][i] = before + 1e-5;
        const above = value();
        inputs[name][i] = before - 1e-5;
        const below = value();
        inputs[name][i] = before;
        close([gradients[`d${name}`][i]], [(above - below) / 2e-5], 1e-8);
      }
  }
});

t("the transformer's gradients are difference quotients, and its loss falls", () => {
  const shape = { layers: 2, width: 8, heads: 2, vocabulary: 11, batch: 2, length: 5 };
  const p: Record<string, Float64Array> = {};
  for (const [name, values] of Object.entries(parametersOf(shape).values))
    p[name] = Float64Array.from(values, (x, i) => x + 0.3 * Math.sin(1.7 * i + name.length));
  const { loss, gradients } = lossAndGradients(shape, p);
  assert.ok(loss > 0.5 && loss < 10);
  for (const name in p) {
    const i = Math.floor(p[name].length / 3);
    const before = p[name][i];
    p[name][i] = before + 1e-5;
    const above = lossAndGradients(shape, p).loss;
    p[name][i] = before - 1e-5;
    const below = lossAndGradients(shape, p).loss;
    p[name][i] = before;
    close([gradients[name][i]], [(above - below) / 2e-5], 1e-8);
  }
  const [first, second, third] = losses(shape, 3);
  assert.ok(Math.abs(first - Math.log(11)) < 0.1, `untrained it knows nothing: ${first}`);
  assert.ok(second < first && third < second);
  const { ids, next } = tokensOf(shape);
  assert.is(next[0], ids[1]);
});

t("layouts of heads go there and back; matrices transpose", () => {
  const values = Float32Array.from({ length: 24 }, (_, i) => i);
  const layout = { sequences: 2, length: 3, heads: 2, headSize: 2 };
  // Sequence 0, head 1, token 0: the second pair of the first row.
  assert.equal([...byHead(values, layout).subarray(6, 8)], [2, 3]);
  assert.equal(byRow(byHead(values, layout), layout), values);
  assert.equal([...transposed(Float32Array.from([1, 2, 3, 4, 5, 6]), 2)], [1, 4, 2, 5, 3, 6]);
});

t("an error is the largest difference over the root mean square; what is missing is infinitely wrong", () => {
  close([errorOf([3, 4.5], [3, 4])], [0.5 / Math.sqrt(12.5)]);
  assert.is(errorOf([1, Number.NaN], [1, 2]), Infinity);
  assert.is(errorOf([1], [1, 2]), Infinity);
  assert.is(errorOf(undefined, [1, 2]), Infinity);
});

t("top items: equal scores may change places, wrong, missing and repeated ones are wrong", () => {
  const each = QUICK.find(({ kind }) => kind === "top-items")!;
  const { queries, k } = each.shape;
  const error = judge(each);
  assert.is(error({ ids: new Uint32Array(queries * k), scores: new Float32Array(queries * k) }), Infinity);
  const ids = Uint32Array.from({ length: queries * k }, (_, i) => i % k);
  assert.ok(error({ ids, scores: new Float32Array(ids.length) }) > TOLERANCE, "ten items, not the best");
});

const entry = (engine: string, times: number[], error = 0): Entry => ({
  engine,
  form: "",
  none: null,
  failed: null,
  error,
  times,
});

t("the peer to beat is the fastest right one", () => {
  assert.is(median([5, 1, 3]), 3);
  assert.is(median([4, 1, 3, 2]), 2.5);
  const ours = entry("ours", [10, 10, 20]);
  const slow = entry("slow", [40, 30, 90]);
  const wrong = entry("wrong", [1, 1, 1], 0.03);
  assert.equal(verdict(ours, [wrong, slow], 2), {
    engine: "slow",
    ratio: 4,
    least: 3,
    most: 4.5,
    target: 2,
    reached: true,
    processor: null,
  });
  const counted = (each: Entry, processor: number[]) => ({ ...each, processor });
  const peers = [
    counted(entry("fast", [15, 15, 15]), [60, 60, 60]),
    counted(slow, [20, 10, 30]),
    counted(wrong, [1]),
  ];
  assert.is(verdict(counted(ours, [4, 2, 9]), peers, 2)?.processor, 5, "the right one that spends least");
  assert.is(verdict(ours, [slow, entry("fast", [15, 15, 15])], 2)?.engine, "fast");
  assert.is(verdict(ours, [slow, entry("fast", [15, 15, 15])], 2)?.reached, false);
  assert.is(verdict(ours, [wrong], 2), null, "nobody right");
  assert.is(verdict(entry("ours", [10], 0.5), [slow], 2), null, "ours is wrong");
  const none = { ...entry("none", []), error: null, none: "it has no gradients" };
  const failed = { ...entry("failed", []), error: null, failed: "no adapter" };
  assert.is(verdict(ours, [none, failed], 2), null);
  // A peer that failed in the middle of its rounds has times, but is no peer to beat.
  assert.is(verdict(ours, [{ ...slow, failed: "lost" }], 2), null);
});

t("cells say what happened", () => {
  assert.is(cell(entry("a", [2, 1, 3])), "2.00 (1.00 .. 3.00)");
  assert.is(cell(entry("a", [2, 1, 3], 0.03)), "wrong (error 3.0 %), 2.00 (1.00 .. 3.00)");
  assert.is(cell(entry("a", [200], Infinity)), "wrong (error not finite), 200 (200 .. 200)");
  assert.is(cell({ ...entry("a", []), error: null, none: "no gradients" }), "none");
  assert.is(cell({ ...entry("a", []), error: null, failed: "crashed" }), "failed");
  const ours = entry("ours", [10]);
  const peer = entry("peer", [15]);
  const row = { case: { name: "work", target: 2 }, entries: [ours, peer], verdict: verdict(ours, [peer], 2) };
  assert.is(
    table(["ours", "peer"], [row]).split("\n").at(-1),
    "| work | 10.0 (10.0 .. 10.0) | 15.0 (15.0 .. 15.0) | 1.5 (1.5 .. 1.5), target 2: NOT reached | - |",
  );
});

const program = repositoryPath("bench/peers/run.js");
const launch = (file: string, ...flags: string[]) =>
  spawnSync(process.execPath, [file, ...flags], { encoding: "utf8", maxBuffer: 2 ** 26 });

t("without the peers there is one line that says how to install them", () => {
  const folder = join(temporaryFolder(), "checkout");
  mkdirSync(join(folder, "dist"), { recursive: true });
  const filter = (path: string) => !path.includes("node_modules");
  cpSync(repositoryPath("bench"), join(folder, "bench"), { recursive: true, filter });
  cpSync(repositoryPath("package.json"), join(folder, "package.json"));
  const file = join(folder, "bench/peers/run.js");
  assert.is(launch(file).stderr, "dist/ is missing: run `npm run build` first\n");
  cpSync(repositoryPath("dist/index.js"), join(folder, "dist/index.js"));
  const { status, stdout, stderr } = launch(file);
  assert.is(status, 1);
  assert.is(stdout, "");
  assert.is(stderr, "the peers are not installed: run `npm --prefix bench/peers ci` first\n");
});

t("--help, unknown options and parts", () => {
  assert.match(launch(program, "--help").stdout, "node bench/peers/run.js");
  const { status, stderr } = launch(program, "--fast");
  assert.is(status, 1);
  assert.match(stderr, /^unknown option --fast: [^\n]*\n$/);
});

t("--quick --json, where the peers are installed", () => {
  if (!existsSync(repositoryPath("bench/peers/node_modules"))) {
    console.log(
      "SKIPPED: bench/peers/node_modules is not there (npm --prefix bench/peers ci); peers did not run",
    );
    return;
  }
  const { status, stdout, stderr } = launch(program, "--quick", "--json");
  assert.is(status, 0, stderr);
  const report = JSON.parse(stdout);
  assert.equal(
    report.results.map((row: { case: { name: string } }) => row.case.name),
    QUICK.map(({ name }) => name),
  );
  for (const { case: each, entries } of report.results) {
    assert.is(entries.length, 3);
    const [ours, onnx, jax] = entries as Entry[];
    assert.ok(ours.error !== null && ours.error <= TOLERANCE, `${each.name}: ${ours.failed ?? ours.error}`);
    assert.is(ours.times.length, report.rounds);
    assert.ok(ours.times.every((time) => time > 0));
    const gradient = ["attention-gradient", "training"].includes(each.kind);
    if (gradient) assert.type(onnx.none, "string");
    else assert.is(onnx.failed, null, each.name);
    assert.is(jax.failed, null, each.name);
  }
});

t.run();
