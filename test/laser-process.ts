import { type ChildProcess, spawn } from "node:child_process";
import * as assert from "uvu/assert";
import { repositoryPath } from "./shared.ts";

/** What a run of the command line left behind. */
export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A running `node dist/cli.js ...`. */
export interface LaserProcess {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
}

/** Starts the command line in a folder. `wrapper` is a shell prefix, such as "ulimit -f 70;". */
export function startLaser(args: readonly string[], cwd: string, wrapper?: string): LaserProcess {
  const cli = repositoryPath("dist/cli.js");
  const env: NodeJS.ProcessEnv = { ...process.env, LASER_DEBUG: "" };
  const child = wrapper
    ? spawn("bash", ["-c", `${wrapper} exec "$@"`, "bash", process.execPath, cli, ...args], { cwd, env })
    : spawn(process.execPath, [cli, ...args], { cwd, env });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (piece) => {
    stdout += piece;
  });
  child.stderr.on("data", (piece) => {
    stderr += piece;
  });
  const finished = new Promise<Finished>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
  return { child, finished };
}

/** Runs the command line to its end. */
export function laser(args: readonly string[], cwd: string, wrapper?: string): Promise<Finished> {
  return startLaser(args, cwd, wrapper).finished;
}

/** Runs it and expects success; returns stdout. */
export async function laserOk(args: readonly string[], cwd: string): Promise<string> {
  const { code, signal, stdout, stderr } = await laser(args, cwd);
  assert.is(code, 0, `laser ${args.join(" ")}: code ${code}, signal ${signal}\n${stderr}`);
  return stdout;
}

/** Expects one line of error on stderr that holds every given part, exit code 1, and no stack. */
export function assertUserError({ code, stderr }: Finished, ...parts: readonly (string | RegExp)[]): void {
  assert.is(code, 1, stderr);
  const lines = stderr
    .split("\n")
    .filter((line) => line.startsWith("error: ") || /internal error/.test(line));
  assert.is(lines.length, 1, stderr);
  assert.not.match(stderr, /internal error/);
  assert.not.match(stderr, /^\s+at /m);
  // The error is the last thing said.
  assert.is(stderr.trimEnd().split("\n").at(-1), lines[0], stderr);
  for (const part of parts) assert.match(lines[0], part);
}

/** Waits until a condition holds; fails after a minute. */
export async function until(what: string, condition: () => boolean, child?: ChildProcess): Promise<void> {
  const started = Date.now();
  while (!condition()) {
    if (child && (child.exitCode !== null || child.signalCode !== null))
      throw new Error(`it ended before ${what}`);
    if (Date.now() - started > 120_000) throw new Error(`waited two minutes for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
