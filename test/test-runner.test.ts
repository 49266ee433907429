import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { repositoryPath } from "./shared.ts";

/** Runs test/run.mjs over these compiled tests in a folder of their own. */
function runTests(tests: Record<string, string>, args: string[] = [], env: Record<string, string> = {}) {
  const root = mkdtempSync(join(tmpdir(), "laser-test-runner-"));
  try {
    mkdirSync(join(root, "test"));
    mkdirSync(join(root, "dist", "test"), { recursive: true });
    writeFileSync(join(root, "package.json"), '{ "type": "module" }');
    symlinkSync(repositoryPath("node_modules"), join(root, "node_modules"));
    copyFileSync(repositoryPath("test/run.mjs"), join(root, "test", "run.mjs"));
    for (const [name, body] of Object.entries(tests)) {
      writeFileSync(join(root, "test", `${name}.test.ts`), "");
      if (body === "not built") continue;
      const source = `import { test } from "uvu"; import * as assert from "uvu/assert";\n${body}`;
      writeFileSync(join(root, "dist", "test", `${name}.test.js`), source);
    }
    const { status, stdout } = spawnSync(process.execPath, [join(root, "test", "run.mjs"), ...args], {
      encoding: "utf8",
      env: { ...process.env, ...env },
    });
    const lines = stdout.trimEnd().split("\n");
    return { status, stdout, last: lines[lines.length - 1] };
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

const PASSING = 'test("a", () => {}); test("b", () => console.log("SKIPPED: no data")); test.run();';
const FAILING = 'test("c", () => assert.is(1, 2)); test("d", () => {}); test.run();';

const t = suite("test runner");

t("counts the tests of all files and repeats what was skipped", () => {
  const { status, last, stdout } = runTests({ one: PASSING, two: PASSING });
  assert.is(last, "4 passed, 0 failed");
  assert.is(status, 0);
  assert.match(stdout, "two: SKIPPED: no data");
});

t("a failing test fails the run and shows its output", () => {
  const { status, last, stdout } = runTests({ one: PASSING, two: FAILING }, [], { LASER_TEST_JOBS: "2" });
  assert.is(last, "3 passed, 1 failed");
  assert.is(status, 1);
  assert.match(stdout, "FAIL");
});

t("a file that crashes, holds no test, ends early, is not built or exits with an error is a failure", () => {
  const { status, last, stdout } = runTests({
    crash: 'process.kill(process.pid, "SIGSEGV"); await new Promise((r) => setTimeout(r, 1e4));',
    early: 'test("never", () => new Promise(() => {})); test.run();',
    empty: "",
    missing: "not built",
    syntax: "test(",
    code: 'test("a", () => {}); test.run(); process.on("exit", () => { process.exitCode = 3; });',
  });
  assert.is(last, "1 passed, 6 failed", stdout);
  assert.is(status, 1);
});

t("a file that does not end is ended after the limit", () => {
  const hang = `${PASSING} setInterval(() => {}, 1e3);`;
  const { status, last, stdout } = runTests({ hang }, [], { LASER_TEST_LIMIT: "1" });
  assert.is(last, "2 passed, 1 failed", stdout);
  assert.is(status, 1);
  assert.match(stdout, "ended after 1 s");
});

t("names choose files, and a name that chooses none is a failure", () => {
  const tests = { attention: PASSING, product: FAILING };
  assert.is(runTests(tests, ["atten"]).last, "2 passed, 0 failed");
  const none = runTests(tests, ["nothing"]);
  assert.is(none.last, "0 passed, 1 failed");
  assert.is(none.status, 1);
});

t.run();
