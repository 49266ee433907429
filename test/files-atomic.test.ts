import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { removePartialFiles, writeFileAtomic } from "../src/files/atomic.ts";
import { UserError } from "../src/files/user-error.ts";

// This file also runs as the child that a test starts: `files-atomic.test.js overfill PATH` writes 1 MiB to PATH.
if (process.argv[2] === "overfill") {
  const pieces = (function* () {
    for (let i = 0; i < 16; i++) yield new Uint8Array(65536).fill(i);
  })();
  await writeFileAtomic(process.argv[3], pieces).then(
    () => process.exit(0),
    (error) => {
      console.log(`${error.name}: ${error.message}`);
      process.exit(1);
    },
  );
}

const t = suite("atomic files");
const folder = mkdtempSync(join(tmpdir(), "atomic-"));
t.after(() => rmSync(folder, { recursive: true }));

/** Runs and returns the one-line message of the UserError that it must throw. */
async function userError(run: () => Promise<unknown>): Promise<string> {
  try {
    await run();
  } catch (error) {
    assert.instance(error, UserError);
    assert.not.match((error as Error).message, "\n");
    return (error as Error).message;
  }
  throw new Error("no error was thrown");
}

t("writes strings, bytes, and pieces from iterables and async iterables", async () => {
  const path = join(folder, "kinds");
  await writeFileAtomic(path, "é\n");
  assert.is(readFileSync(path, "utf8"), "é\n");
  await writeFileAtomic(path, Uint8Array.of(1, 2, 255));
  assert.equal([...readFileSync(path)], [1, 2, 255]);
  await writeFileAtomic(path, ["a", Uint8Array.of(0x62), "c"]);
  assert.is(readFileSync(path, "utf8"), "abc");
  const pieces = (async function* () {
    yield "x";
    await new Promise((resolve) => setTimeout(resolve, 1));
    assert.is(readFileSync(path, "utf8"), "abc", "the old content stays until the end");
    yield "y";
  })();
  await writeFileAtomic(path, pieces);
  assert.is(readFileSync(path, "utf8"), "xy");
  await writeFileAtomic(path, "");
  assert.is(readFileSync(path).length, 0);
  assert.equal(readdirSync(folder), ["kinds"]);
});

t("a failure half-way leaves the old file whole and no temporary file", async () => {
  const path = join(folder, "kept");
  await writeFileAtomic(path, "old");
  const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  const failing = (error: Error) =>
    (function* () {
      yield "half";
      throw error;
    })();
  const message = await userError(() => writeFileAtomic(path, failing(full)));
  assert.match(message, path);
  assert.match(message, "the disk is full");
  assert.match(message, "free some space");

  // An error that is not the file system's passes through: it is a defect, not the user's mistake.
  const defect = new TypeError("defect");
  const thrown = await writeFileAtomic(path, failing(defect)).catch((error) => error);
  assert.is(thrown, defect);
  assert.is(readFileSync(path, "utf8"), "old");
  assert.equal(readdirSync(folder).sort(), ["kept", "kinds"]);
});

t("a write that the system refuses (size limit, like a full disk) leaves the old file whole", () => {
  if (process.platform === "win32") return;
  const path = join(folder, "limited");
  writeFileSync(path, "old");
  const self = fileURLToPath(import.meta.url);
  // 64 blocks of 512 or 1024 bytes: the second or third piece of 64 KiB fails with EFBIG.
  const command = `ulimit -f 64; exec "$0" "$1" overfill "$2"`;
  const child = spawnSync("sh", ["-c", command, process.execPath, self, path], { encoding: "utf8" });
  assert.is(child.status, 1, child.stdout + child.stderr);
  assert.match(child.stdout, /^UserError: cannot write .*limited: .*size limit/);
  assert.is(readFileSync(path, "utf8"), "old");
  assert.equal(readdirSync(folder).sort(), ["kept", "kinds", "limited"]);
});

t("says what is wrong with the path", async () => {
  assert.match(
    await userError(() => writeFileAtomic(join(folder, "missing", "file"), "x")),
    /cannot write .*missing.*no such file or folder/,
  );
  assert.match(
    await userError(() => writeFileAtomic(join(folder, "kept", "file"), "x")),
    /a part of the path is a file/,
  );
  mkdirSync(join(folder, "directory"));
  assert.match(await userError(() => writeFileAtomic(join(folder, "directory"), "x")), /it is a folder/);
  rmSync(join(folder, "directory"), { recursive: true });
});

t("removes what a killed process left, and nothing else", async () => {
  writeFileSync(join(folder, ".model.safetensors.123.4.partial"), "");
  writeFileSync(join(folder, ".hidden"), "");
  assert.is(await removePartialFiles(folder), 1);
  assert.equal(readdirSync(folder).sort(), [".hidden", "kept", "kinds", "limited"]);
});

t.run();
