import { type FileHandle, open, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { UserError } from "./user-error.ts";

type Chunk = string | Uint8Array;

/** What `writeFileAtomic` accepts: a whole file, or its pieces in order (each written before the next is asked for). */
export type FileContent = Chunk | Iterable<Chunk> | AsyncIterable<Chunk>;

/** Temporary files are `.NAME.PID.COUNT.partial`, beside the file that they are to become. */
const PARTIAL = /^\..+\.\d+\.\d+\.partial$/;
let counter = 0;

/**
 * Writes a file so that at any moment, even if the process is killed or the power fails, `path` holds either its old
 * content or the whole new content: a temporary file in the same folder, fsync, rename, fsync of the folder.
 *
 * On failure (full disk, no permission, an error of the iterable) the temporary file is removed and the old file is
 * untouched. Failures of the file system throw a UserError that names the file, the reason and what to do; an error
 * that is not about files, thrown by the iterable, passes through unchanged.
 */
export async function writeFileAtomic(path: string, data: FileContent): Promise<void> {
  const folder = dirname(path);
  const partial = join(folder, `.${basename(path)}.${process.pid}.${counter++}.partial`);
  let file: FileHandle | undefined;
  try {
    file = await open(partial, "wx");
    if (typeof data === "string" || data instanceof Uint8Array) await writeAll(file, data);
    else for await (const chunk of data) await writeAll(file, chunk);
    await file.sync();
    await file.close();
    file = undefined;
    await rename(partial, path);
  } catch (error) {
    await file?.close().catch(() => {});
    await rm(partial, { force: true }).catch(() => {});
    throw fileError("write", path, error);
  }
  await syncFolder(folder);
}

/**
 * Removes the temporary files that killed processes left in a folder. Only for a folder that no other process writes
 * to (one holds its lock); returns how many it removed.
 */
export async function removePartialFiles(folder: string): Promise<number> {
  const names = (await readdir(folder)).filter((name) => PARTIAL.test(name));
  for (const name of names) await rm(join(folder, name), { force: true });
  return names.length;
}

/**
 * The UserError for a failed file operation, or the error itself when it did not come from the file system (it has
 * no errno code). `action` completes "cannot ... PATH".
 */
export function fileError(action: string, path: string, error: unknown): unknown {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  if (error instanceof UserError || code === undefined || !/^E[A-Z0-9]+$/.test(code)) return error;
  const [reason, advice] = REASONS[code] ?? [`the system says ${code}`, "check the path and the disk"];
  return new UserError(`cannot ${action} ${path}: ${reason}; ${advice}`, { cause: error });
}

const REASONS: Record<string, [reason: string, advice: string]> = {
  ENOSPC: ["the disk is full", "free some space and run again (what was there before is untouched)"],
  EDQUOT: ["the disk quota is used up", "free some space and run again (what was there before is untouched)"],
  EFBIG: ["the file would exceed the size limit", "raise the limit (ulimit -f) or choose another disk"],
  EACCES: ["permission denied", "check the owner and mode of the file and its folder"],
  EPERM: ["operation not permitted", "check the owner and mode of the file and its folder"],
  EROFS: ["the file system is read-only", "choose a folder on a writable disk"],
  ENOENT: ["no such file or folder", "check the path"],
  ENOTDIR: ["a part of the path is a file, not a folder", "check the path"],
  EISDIR: ["it is a folder, and a file was expected", "check the path"],
  ENOTEMPTY: ["it is a folder, and a file was expected", "check the path"],
  EMFILE: ["too many files are open", "raise the limit (ulimit -n)"],
  ENFILE: ["too many files are open", "raise the system's limit on open files"],
  ENAMETOOLONG: ["the name is too long", "choose a shorter one"],
  ELOOP: ["too many symbolic links", "check the path"],
  EIO: ["input/output error", "check the disk"],
};

async function writeAll(file: FileHandle, chunk: Chunk): Promise<void> {
  const bytes = typeof chunk === "string" ? Buffer.from(chunk, "utf8") : chunk;
  // One write call may take fewer bytes than asked for (a disk about to be full does), and at most 2 GiB.
  for (let offset = 0; offset < bytes.byteLength; ) {
    const length = Math.min(bytes.byteLength - offset, 1 << 30);
    offset += (await file.write(bytes, offset, length)).bytesWritten;
  }
}

/**
 * Makes the rename itself durable. The file is already in place: a system that cannot open or fsync folders (Windows,
 * some network file systems) has no such step, and that is no failure.
 */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r").catch(() => undefined);
  await handle?.sync().catch(() => {});
  await handle?.close();
}
