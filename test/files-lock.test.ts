import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { lockFolder } from "../src/files/lock.ts";
import { UserError } from "../src/files/user-error.ts";

// This file also runs as the second process: `files-lock.test.js hold|try FOLDER`.
const [, , mode, target] = process.argv;
if (mode === "hold") {
  lockFolder(target);
  console.log("held");
  process.stdin.on("data", () => process.exit(0));
  await new Promise(() => {});
} else if (mode === "try") {
  try {
    lockFolder(target);
    console.log("took it");
    process.exit(0);
  } catch (error) {
    console.log(`${(error as Error).name}: ${(error as Error).message}`);
    process.exit(1);
  }
}

const t = suite("run lock");
const folder = mkdtempSync(join(tmpdir(), "lock-"));
const file = join(folder, "lock.json");
t.after(() => rmSync(folder, { recursive: true }));
t.after.each(() => rmSync(file, { force: true }));

function start(what: string): ChildProcess {
  return spawn(process.execPath, [fileURLToPath(import.meta.url), what, folder], { stdio: "pipe" });
}

async function holder(): Promise<ChildProcess> {
  const child = start("hold");
  await once(child.stdout!, "data");
  return child;
}

async function attempt(): Promise<{ code: number; output: string }> {
  const child = start("try");
  let output = "";
  child.stdout!.on("data", (data) => {
    output += data;
  });
  const [code] = await once(child, "close");
  return { code, output };
}

function refusal(): string {
  try {
    lockFolder(folder).release();
  } catch (error) {
    assert.instance(error, UserError);
    return (error as Error).message;
  }
  throw new Error("the lock was given");
}

t("a second process gets one line that names the first", async () => {
  const lock = lockFolder(folder);
  const { code, output } = await attempt();
  assert.is(code, 1);
  assert.match(output, /^UserError: .*another run is using this folder \(process \d+ on .*\n$/);
  assert.match(output, `process ${process.pid} `);
  assert.match(output, folder);
  lock.release();
  assert.not(existsSync(file));
  assert.is((await attempt()).code, 0);
  assert.equal(readdirSync(folder), [], "the other released it by exiting, and left nothing");
});

t("the same process cannot take it twice; release is safe to repeat", () => {
  const lock = lockFolder(folder);
  assert.match(refusal(), `process ${process.pid}`);
  lock.release();
  lock.release();
  const again = lockFolder(folder);
  lock.release(); // An old handle does not release somebody else's lock.
  assert.ok(existsSync(file));
  again[Symbol.dispose]();
  assert.not(existsSync(file));
});

t("released on exit and on signals, which still end the process", async () => {
  const exiting = await holder();
  assert.match(refusal(), `process ${exiting.pid}`);
  exiting.stdin!.write("exit\n");
  assert.equal(await once(exiting, "exit"), [0, null]);
  assert.not(existsSync(file));
  if (process.platform === "win32") return;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    const child = await holder();
    child.kill(signal);
    assert.equal(await once(child, "exit"), [null, signal]);
    assert.not(existsSync(file), signal);
  }
});

t("the lock of a killed process is taken over", async () => {
  const child = await holder();
  child.kill("SIGKILL");
  await once(child, "exit");
  assert.ok(existsSync(file), "it had no chance to release");
  const lock = lockFolder(folder);
  assert.is(JSON.parse(readFileSync(file, "utf8")).pid, process.pid);
  lock.release();
  assert.equal(readdirSync(folder), []);
});

t("a damaged lock, and a pid that now belongs to another process, are stale; another host's is not", () => {
  writeFileSync(file, "{");
  lockFolder(folder).release();
  const other = { pid: process.ppid, host: hostname(), started: "another boot:1", since: "before" };
  if (process.platform === "linux") {
    writeFileSync(file, JSON.stringify(other));
    lockFolder(folder).release();
  }
  writeFileSync(file, JSON.stringify({ ...other, started: null }));
  assert.match(refusal(), `process ${process.ppid}`);
  writeFileSync(file, JSON.stringify({ ...other, host: "elsewhere" }));
  assert.match(
    refusal(),
    /on elsewhere, since before\); if that process no longer runs there, delete .*lock\.json/,
  );
});

t("a folder that does not exist is named", () => {
  assert.throws(
    () => lockFolder(join(folder, "missing")),
    (error: Error) => error instanceof UserError && /cannot lock .*missing: no such file/.test(error.message),
  );
});

t.run();
