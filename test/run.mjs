// Runs the compiled tests, each file in a Node process of its own:  node test/run.mjs [part of a name]...
//
// LASER_TEST_JOBS files run at a time (default 1: the adapter is often the CPU itself). Ends with the line
// "N passed, N failed" and exits with 1 on any failure. Counted are uvu's tests; a file that crashes, runs longer
// than LASER_TEST_LIMIT seconds (default 900: SwiftShader is slow), was not built or holds no test counts as one failure.
// LASER_TEST_NODE is the Node that runs them (test/newer-lavapipe.sh makes one on another driver).
import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

const sources = new URL("./", import.meta.url);
const compiled = new URL("../dist/test/", import.meta.url);
const limitSeconds = Number(process.env.LASER_TEST_LIMIT || 900);
const jobs = Math.max(1, Math.trunc(Number(process.env.LASER_TEST_JOBS)) || 1);
const parts = process.argv.slice(2);

// The sources say which tests there are: dist/test may still hold compiled tests that were deleted.
const names = readdirSync(sources)
  .filter((file) => file.endsWith(".test.ts"))
  .map((file) => file.slice(0, -".test.ts".length))
  .filter((name) => parts.length === 0 || parts.some((part) => name.includes(part)))
  .sort();

/** Process groups now running, to be ended with this process. */
const running = new Set();
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    for (const child of running) endGroup(child);
    process.exit(1);
  });
}

/** A test may have started programs of its own: they end with it. */
function endGroup(child) {
  try {
    if (process.platform === "win32") child.kill("SIGKILL");
    else process.kill(-child.pid, "SIGKILL");
  } catch {} // Already gone.
}

/** Runs one file: how many tests passed and failed, why the file itself failed (or null), and all it printed. */
function runFile(name) {
  const file = fileURLToPath(new URL(`${name}.test.js`, compiled));
  if (!existsSync(file)) {
    const problem = "not built: node build.mjs --tests";
    return Promise.resolve({ name, passed: 0, failed: 1, skipped: 0, problem, output: "", seconds: 0 });
  }
  return new Promise((resolve) => {
    const started = performance.now();
    const child = spawn(process.env.LASER_TEST_NODE || process.execPath, [file], {
      stdio: ["ignore", "pipe", "pipe"],
      detached: process.platform !== "win32",
    });
    running.add(child);
    const pieces = [];
    child.stdout.on("data", (piece) => pieces.push(piece));
    child.stderr.on("data", (piece) => pieces.push(piece));
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      endGroup(child);
    }, limitSeconds * 1000);
    child.on("error", (error) => pieces.push(Buffer.from(String(error))));
    child.on("exit", () => endGroup(child));
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      running.delete(child);
      const seconds = (performance.now() - started) / 1000;
      const output = Buffer.concat(pieces).toString();
      const { total, passed, skipped } = count(output);
      let failed = total - passed - skipped;
      let problem = null;
      if (late) problem = `ended after ${limitSeconds} s`;
      else if (signal) problem = `ended by ${signal}`;
      else if (total === 0) problem = `ran no test (exit code ${code})`;
      else if (code !== 0 && failed === 0) problem = `exit code ${code}`;
      if (problem) failed += 1;
      resolve({ name, passed, failed, skipped, problem, output, seconds });
    });
  });
}

/** Adds up uvu's summary, which it prints once at the end of a file. */
function count(output) {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: terminal colours, when something forces them
  const plain = output.replace(/\x1b\[[0-9;]*m/g, "");
  const sum = (word) =>
    [...plain.matchAll(new RegExp(`^ {2}${word}: +(\\d+)$`, "gm"))].reduce(
      (n, match) => n + Number(match[1]),
      0,
    );
  return { total: sum("Total"), passed: sum("Passed"), skipped: sum("Skipped") };
}

function print({ name, passed, failed, skipped, problem, output, seconds }) {
  const counts = [`${passed} passed`];
  if (skipped) counts.push(`${skipped} skipped`);
  if (failed) counts.push(`${failed} FAILED`);
  if (problem) counts.push(problem);
  const width = Math.max(...names.map((n) => n.length));
  console.log(`${name.padEnd(width)}  ${seconds.toFixed(1).padStart(6)} s  ${counts.join(", ")}`);
  if (failed && output) console.log(`${output.trimEnd()}\n`);
}

if (names.length === 0) {
  console.log(`no test file is named like ${parts.map((part) => `"${part}"`).join(" or ")}`);
  console.log("0 passed, 1 failed");
  process.exit(1);
}

const results = [];
const queue = [...names];
const worker = async () => {
  for (let name = queue.shift(); name !== undefined; name = queue.shift()) {
    const result = await runFile(name);
    results.push(result);
    print(result);
  }
};
const started = performance.now();
await Promise.all(Array.from({ length: jobs }, worker));

for (const { name, output } of results) {
  // uvu prints its bullets on the same line.
  for (const match of output.matchAll(/SKIPPED:.*/g)) console.log(`${name}: ${match[0]}`);
}
const sum = (key) => results.reduce((n, result) => n + result[key], 0);
console.log(`${results.length} files, ${((performance.now() - started) / 1000).toFixed(0)} s`);
console.log(`${sum("passed")} passed, ${sum("failed")} failed`);
process.exitCode = sum("failed") ? 1 : 0;
