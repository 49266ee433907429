// Every benchmark in turn: npm run bench -- [--json] [--quick] [--adapter=NAME] [--report]
//
// --report: instead of those, bench/growth.js, whose curves are drawn: runs/bench/growth.svg, and growth.json beside it.
// Each runs in a process of its own, so that none meets another's compiled kernels or memory. With --json the output is
// one object: a benchmark's name to what it prints with --json. What each measures: docs/bench.md, or its own --help.
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { flags, json } from "./harness.js";

const NAMES = [
  "limits",
  "product",
  "ladder",
  "attention",
  "router",
  "memory",
  "cosine",
  "load",
  "frozen",
  "encode",
  "step",
];
const REPORT = join("runs", "bench");
const adapter = flags.find((flag) => flag.startsWith("--adapter="))?.slice("--adapter=".length);
const env = adapter ? { ...process.env, LASER_ADAPTER: adapter } : process.env;
const passed = flags.filter((flag) => !/^--(adapter=.*|report)$/.test(flag));

/** Runs one benchmark; gives what it printed, when that is captured, or null when it failed. */
function run(name, args, captured) {
  const file = fileURLToPath(new URL(`${name}.js`, import.meta.url));
  const stdio = ["ignore", captured ? "pipe" : "inherit", "inherit"];
  const options = { stdio, env, maxBuffer: 2 ** 26 };
  const { status, signal, stdout } = spawnSync(process.execPath, [file, ...args], options);
  if (status === 0) return stdout ?? "";
  console.error(`bench/${name}.js failed (${signal ?? `exit code ${status}`})`);
  process.exitCode = 1;
  return null;
}

async function report() {
  console.error("bench/growth.js: a training step at 18 sizes; some minutes on a CPU");
  const stdout = run("growth", [...passed.filter((flag) => flag !== "--json"), "--json"], true);
  if (stdout === null) return;
  const { drawGrowth } = await import("./draw.js");
  mkdirSync(REPORT, { recursive: true });
  writeFileSync(join(REPORT, "growth.json"), stdout);
  writeFileSync(join(REPORT, "growth.svg"), drawGrowth(JSON.parse(stdout)));
  console.log(`${join(REPORT, "growth.svg")}, and the figures in ${join(REPORT, "growth.json")}`);
}

function every() {
  const reports = {};
  for (const name of NAMES) {
    if (!json) console.log(`\n== ${name}\n`);
    const stdout = run(name, passed, json);
    if (stdout && json) reports[name] = JSON.parse(stdout);
  }
  if (json) console.log(JSON.stringify(reports, null, 2));
}

if (flags.includes("--report")) await report();
else every();
