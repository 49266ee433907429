// Every benchmark in turn: npm run bench -- [--json] [--quick] [--adapter=NAME]
//
// Each runs in a process of its own, so that none meets another's compiled kernels or memory. With --json the output is
// one object: a benchmark's name to what it prints with --json. What each measures: docs/bench.md, or its own --help.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { json } from "./harness.js";

const NAMES = ["limits", "product", "attention", "router", "cosine", "frozen", "encode", "step"];
const flags = process.argv.slice(2);
const adapter = flags.find((flag) => flag.startsWith("--adapter="))?.slice("--adapter=".length);
const env = adapter ? { ...process.env, LASER_ADAPTER: adapter } : process.env;
const reports = {};
for (const name of NAMES) {
  const file = fileURLToPath(new URL(`${name}.js`, import.meta.url));
  if (!json) console.log(`\n== ${name}\n`);
  const args = [file, ...flags.filter((flag) => !flag.startsWith("--adapter="))];
  const stdio = ["ignore", json ? "pipe" : "inherit", "inherit"];
  const { status, signal, stdout } = spawnSync(process.execPath, args, { stdio, env, maxBuffer: 2 ** 26 });
  if (status !== 0) {
    console.error(`bench/${name}.js failed (${signal ?? `exit code ${status}`})`);
    process.exitCode = 1;
  } else if (json) reports[name] = JSON.parse(stdout);
}
if (json) console.log(JSON.stringify(reports, null, 2));
