// @ts-check
// This project against others, the same work in the same run on the same adapter.
//
//   npm run build && npm --prefix bench/peers ci      once
//   node bench/peers/run.js [--json] [--quick] [--adapter=NAME] [--only=PART]
//
// The others: onnxruntime-node by its WebGPU execution provider (no gradients), and @jax-js/jax. Each engine has a process
// of its own (engines/). Every result is checked, whole, against plain float64 loops (reference.js) before anything is timed;
// a wrong one is named and is never the peer to beat. Where an engine can do a work in several ways, each is checked and
// tried, and the fastest right one is timed. The engines take turns, round by round; printed are medians with least and
// most, and the ratio of the better right peer's time to ours, with its range over the rounds.
//
// --json: machine-readable, every single time. --quick: tiny cases, for a test. --only=PART: cases whose part or name holds
// PART (parts: product, attention, cross-attention, log-sum-exp, top-items, training).
// --adapter=NAME: as in docs/config.md, for this project and jax; onnxruntime picks its adapter itself.
import { existsSync, readFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { FULL, QUICK } from "./cases.js";
import { EngineProcess, NO_ANSWER } from "./engine-process.js";
import { judge, TOLERANCE } from "./reference.js";
import { table, verdict } from "./table.js";

/** @typedef {import("./cases.js").Case} Case */
/** @typedef {import("./table.js").Entry} Entry */
/** @typedef {{ form: string, error: number | null, failed: string | null, trial: number | null }} Trial */

const flags = process.argv.slice(2);
if (flags.includes("--help") || flags.includes("-h")) {
  const [, header] = readFileSync(new URL(import.meta.url), "utf8").split(/^\/\/ @ts-check\n|^(?!\/\/)/m);
  console.log(header.replace(/^\/\/ ?/gm, "").trimEnd());
  process.exit(0);
}

/** @type {(message: string) => never} */
function fail(message) {
  console.error(message);
  process.exit(1);
}

const unknown = flags.find((flag) => !/^--(json|quick|adapter=.+|only=.+)$/.test(flag));
if (unknown)
  fail(`unknown option ${unknown}: it takes --json, --quick, --adapter=NAME and --only=PART (see --help)`);
const value = (/** @type {string} */ name) =>
  flags.find((flag) => flag.startsWith(`--${name}=`))?.slice(name.length + 3);
const json = flags.includes("--json");
const quick = flags.includes("--quick");
const adapter = value("adapter");
const only = value("only") ?? "";

if (!existsSync(new URL("../../dist/index.js", import.meta.url)))
  fail("dist/ is missing: run `npm run build` first");
if (!existsSync(new URL("node_modules", import.meta.url)))
  fail("the peers are not installed: run `npm --prefix bench/peers ci` first");
const cases = (quick ? QUICK : FULL).filter(({ part, name }) => part.includes(only) || name.includes(only));
if (cases.length === 0) fail(`--only=${only}: no case's part or name holds it`);

const ROUNDS = quick ? 5 : 9;
/** A round repeats the work for about this long, so that waiting for its end (0.1 ms) does not count. */
const ROUND_MS = quick ? 10 : 100;
const MOST_REPETITIONS = 100;
const NONE = "it has no such function";
/** Compiling a training step on a loaded software adapter takes minutes; what takes longer is taken to hang. */
const LIMIT_SECONDS = quick ? 60 : 240;
/** Forms that hung: not tried again in this run. @type {Set<string>} */
const hung = new Set();

/** Whether the adapter computes on the CPU: forms are then chosen by processor time, which other programs disturb less. */
let software = false;
/** @type {(round: { ms: number, processor: number }) => number} */
const costOf = ({ ms, processor }) => (software ? processor : ms);

/** @type {(error: unknown) => string} */
const reason = (error) => (error instanceof Error ? error.message.split("\n")[0] : String(error));

/** For people; with --json on stderr, since a run takes minutes. */
const say = (/** @type {string} */ line) => (json ? console.error(line) : console.log(line));

/**
 * Tries every form of a case on an engine, and leaves the chosen one prepared: the fastest right one, else the fastest.
 * @type {(engine: EngineProcess, each: Case, error: (results: any) => number) => Promise<{ entry: Entry, trials: Trial[], repetitions: number }>}
 */
async function choose(engine, each, error) {
  /** @type {Entry} */
  const entry = {
    engine: engine.name,
    form: "",
    none: null,
    failed: null,
    error: null,
    times: [],
    processor: [],
  };
  /** @type {Trial[]} */
  const trials = [];
  try {
    await engine.start();
    const forms = /** @type {string[]} */ (await engine.call("forms", each));
    if (forms.length === 0) return { entry: { ...entry, none: NONE }, trials, repetitions: 0 };
    for (const form of forms) {
      /** @type {Trial} */
      const trial = { form, error: null, failed: null, trial: null };
      trials.push(trial);
      const key = `${engine.name}, ${form}`;
      try {
        if (hung.has(key)) throw new Error("not tried, since it hung before");
        await engine.start();
        const { outputs } = await engine.call("prepare", each, form);
        trial.error = error(outputs);
        // The first round may still compile.
        await engine.call("round", 1);
        trial.trial = Math.min(...[await engine.call("round", 1), await engine.call("round", 1)].map(costOf));
      } catch (problem) {
        trial.failed = reason(problem);
        if (trial.failed.startsWith(NO_ANSWER)) hung.add(key);
      }
      await engine.call("release").catch(() => {});
    }
    const done = trials.filter(({ trial }) => trial !== null);
    if (done.length === 0) return { entry: { ...entry, failed: trials[0].failed }, trials, repetitions: 0 };
    const right = done.filter((trial) => (trial.error ?? Infinity) <= TOLERANCE);
    const [best] = (right.length ? right : done).sort((a, b) => Number(a.trial) - Number(b.trial));
    await engine.start();
    await engine.call("prepare", each, best.form);
    await engine.call("round", 1);
    const repetitions = Math.round(ROUND_MS / Number(best.trial));
    return {
      entry: { ...entry, form: best.form, error: best.error },
      trials,
      repetitions: Math.min(MOST_REPETITIONS, Math.max(1, repetitions)),
    };
  } catch (problem) {
    return { entry: { ...entry, failed: reason(problem) }, trials, repetitions: 0 };
  }
}

/** One case on every engine. @type {(engines: EngineProcess[], each: Case) => Promise<any>} */
async function run(engines, each) {
  const error = judge(each);
  const chosen = [];
  for (const engine of engines) chosen.push({ engine, ...(await choose(engine, each, error)) });
  const loadBefore = loadavg()[0];
  for (let round = 0; round < ROUNDS; round++)
    for (const { engine, entry, repetitions } of chosen) {
      if (entry.none || entry.failed) continue;
      try {
        const { ms, processor } = await engine.call("round", repetitions);
        entry.times.push(ms);
        entry.processor?.push(processor);
      } catch (problem) {
        entry.failed = reason(problem);
      }
    }
  for (const { engine } of chosen) await engine.call("release").catch(() => {});
  const entries = chosen.map(({ entry }) => entry);
  const [ours, ...peers] = entries;
  return {
    case: each,
    load: [loadBefore, loadavg()[0]],
    entries: chosen.map(({ entry, trials, repetitions }) => ({ ...entry, repetitions, trials })),
    verdict: verdict(ours, peers, each.target),
  };
}

const about = [];
/** @type {EngineProcess[]} */
const engines = [];
for (const signal of ["SIGINT", "SIGTERM"])
  process.on(signal, () => {
    for (const engine of engines) engine.kill();
    process.exit(1);
  });
/** What the drivers of our own process read is what the peers' processes must read. @type {Record<string, string>} */
let environment = {};
for (const name of ["laser", "onnxruntime", "jax"]) {
  const engine = new EngineProcess(name, { adapter }, environment, LIMIT_SECONDS);
  engines.push(engine);
  try {
    const opened = await engine.start();
    about.push(opened);
    if (name === "laser") {
      environment = opened?.environment ?? {};
      software = opened?.software ?? false;
    }
  } catch (problem) {
    if (name === "laser") fail(reason(problem));
    about.push({ engine: name, failed: reason(problem) });
  }
}

const now = new Date();
const host = `${cpus().length} cores (${cpus()[0]?.model ?? "unknown"})`;
say(
  `This project against others, ${now.toISOString().slice(0, 10)}, ${host}, load average ${loadavg()[0].toFixed(1)}`,
);
for (const each of about)
  say(
    each && "failed" in each
      ? `  ${each.engine}: failed to start: ${each.failed}`
      : `  ${each?.engine} ${each?.version}: ${each?.adapter}; ${each?.settings}`,
  );
say(`milliseconds: median (least .. most) of ${ROUNDS} rounds in turn; right: error at most ${TOLERANCE}\n`);

const rows = [];
for (const each of cases) {
  const row = await run(engines, each);
  rows.push(row);
  say(each.name);
  for (const { engine, form, none, failed, trials } of row.entries) {
    const tried = trials.map(
      (/** @type {Trial} */ { form, failed, error, trial }) =>
        `${form}: ${failed ? `failed (${failed})` : `${trial?.toFixed(1)} ms, error ${error?.toExponential(0)}`}`,
    );
    say(
      `  ${engine}: ${none ?? (failed ? `failed: ${failed}` : form)}${trials.length > 1 || failed ? ` [${tried.join("; ")}]` : ""}`,
    );
  }
}
say(`\n${table(["laser", "onnxruntime-node", "@jax-js/jax"], rows)}`);
const load = loadavg().map((average) => average.toFixed(1));
say(`\nload average at the end: ${load.join(", ")}`);
if (json) {
  const report = {
    title: "This project against others",
    date: now.toISOString().slice(0, 10),
    host,
    engines: about,
    rounds: ROUNDS,
    tolerance: TOLERANCE,
    environment,
    load: loadavg(),
    results: rows,
  };
  console.log(JSON.stringify(report, null, 2));
}
for (const engine of engines) await engine.stop();
// Ours must be right; a peer's wrong answer is a finding, not a failure of this program.
const wrong = rows.filter(({ entries: [ours] }) => ours.failed || !(ours.error <= TOLERANCE));
if (wrong.length) fail(`wrong or failed here: ${wrong.map((row) => row.case.name).join("; ")}`);
