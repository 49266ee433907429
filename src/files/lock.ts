import { linkSync, readFileSync, renameSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import { fileError } from "./atomic.ts";
import { UserError } from "./user-error.ts";

/** A held lock. Release it when the run ends; leaving the process or dying by a signal releases it too. */
export interface FolderLock extends Disposable {
  release(): void;
}

/** Who holds a lock. `started` tells a live process from a later one that was given the same pid. */
interface Holder {
  pid: number;
  host: string;
  started: string | null;
  since: string;
}

const LOCK_FILE = "lock.json";
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** The lock files that this process holds. */
const held = new Set<string>();
let counter = 0;

/**
 * Takes the lock of a run folder (which must exist), so that two processes never write the same run. The lock is the
 * file `lock.json` in it, created whole by one hard link: no reader sees half of it, and only one creator wins. A lock
 * whose process is dead is taken over.
 *
 * @throws UserError naming the folder and the process that holds it.
 */
export function lockFolder(folder: string): FolderLock {
  const path = resolve(folder, LOCK_FILE);
  const partial = `${path}.${process.pid}.${counter++}`;
  const self: Holder = {
    pid: process.pid,
    host: hostname(),
    started: startOf(process.pid),
    since: new Date().toISOString(),
  };
  const content = `${JSON.stringify(self)}\n`;
  try {
    writeFileSync(partial, content, { flag: "wx" });
    take(path, partial, folder);
  } catch (error) {
    throw fileError("lock", folder, error);
  } finally {
    rmSync(partial, { force: true });
  }
  if (held.size === 0) watchExit();
  held.add(path);

  let released = false;
  const release = () => {
    if (released) return;
    released = true;
    held.delete(path);
    removeOwn(path, content);
    if (held.size === 0) unwatchExit();
  };
  return { release, [Symbol.dispose]: release };
}

/** Links our file to the lock's name, moving a dead process's lock out of the way first. */
function take(path: string, partial: string, folder: string): void {
  for (let attempt = 0; attempt < 10; attempt++) {
    try {
      linkSync(partial, path);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    const found = readLock(path);
    if (found === null) continue; // Released between the link and the read.
    const holder = parseHolder(found);
    if (held.has(path) || (holder && isAlive(holder))) throw busy(folder, holder, path);
    // Dead: move it aside. If another process replaced it meanwhile, what we moved is a live lock: put it back.
    const aside = `${partial}.stale`;
    try {
      renameSync(path, aside);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") continue;
      throw error;
    }
    const moved = readFileSync(aside, "utf8");
    if (moved !== found) linkSync(aside, path);
    unlinkSync(aside);
  }
  throw new UserError(`${folder}: other processes keep taking its lock (${LOCK_FILE}); run one at a time`);
}

function busy(folder: string, holder: Holder | null, path: string): UserError {
  const who = holder ? `process ${holder.pid} on ${holder.host}, since ${holder.since}` : "this process";
  const elsewhere = holder && holder.host !== hostname();
  const advice = elsewhere
    ? `if that process no longer runs there, delete ${path}`
    : "wait until it ends, stop it, or choose another folder";
  return new UserError(`${folder}: another run is using this folder (${who}); ${advice}`);
}

function readLock(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

function parseHolder(text: string): Holder | null {
  try {
    const { pid, host, started, since } = JSON.parse(text) as Partial<Holder>;
    if (!Number.isSafeInteger(pid) || pid! <= 0 || typeof host !== "string") return null;
    return { pid: pid!, host, started: started ?? null, since: String(since) };
  } catch {
    return null; // Not ours, or damaged: nobody can hold it.
  }
}

function isAlive(holder: Holder): boolean {
  if (holder.host !== hostname()) return true; // We cannot see another machine's processes.
  // Our own pid, but this process does not hold the lock: an earlier process had the number (common in containers).
  if (holder.pid === process.pid) return false;
  try {
    process.kill(holder.pid, 0);
  } catch (error) {
    // EPERM: it exists and belongs to somebody else.
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const started = startOf(holder.pid);
  return holder.started === null || started === null || started === holder.started;
}

/** When a process started (boot and clock ticks since), or null where the system does not say (not Linux). */
function startOf(pid: number): string | null {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const stat = readFileSync(join("/proc", String(pid), "stat"), "utf8");
    // Field 22; the second field is the command in parentheses and may itself hold spaces and parentheses.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? "ended" : `${boot}:${fields[19]}`;
  } catch {
    return null;
  }
}

/** Removes our lock file, unless somebody has replaced it. */
function removeOwn(path: string, content: string): void {
  try {
    if (readFileSync(path, "utf8") === content) unlinkSync(path);
  } catch {
    // The folder was deleted: nothing to release.
  }
}

function releaseAll(): void {
  for (const path of held) rmSync(path, { force: true });
  held.clear();
}

/** A signal that nobody else handles ends the process as it would have without us, after the release. */
function onSignal(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) > 1) return; // Another handler decides; the exit it leads to releases the lock.
  releaseAll();
  unwatchExit();
  process.kill(process.pid, signal);
}

function watchExit(): void {
  process.on("exit", releaseAll);
  for (const signal of SIGNALS) process.on(signal, onSignal);
}

function unwatchExit(): void {
  process.off("exit", releaseAll);
  for (const signal of SIGNALS) process.off(signal, onSignal);
}
