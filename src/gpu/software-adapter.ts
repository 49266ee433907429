import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import { UserError } from "../files/user-error.ts";

/**
 * SwiftShader, a Vulkan driver that computes on the CPU, for Linux machines with no Vulkan at all (no GPU, no root).
 * The optional npm package @sparticuz/chromium carries Chromium's build of it, with the Vulkan loader, as a brotli
 * tar: it is unpacked once into the user's cache folder, and Dawn is pointed to it through the loader's environment.
 */
const PACKAGE = "@sparticuz/chromium";
const LOADER = "libvulkan.so.1";
const MANIFEST = "vk_swiftshader_icd.json";
const FILES = [LOADER, "libvk_swiftshader.so", MANIFEST];

/** dlopen flags (Linux): resolve now; never unload, since Dawn's and Node's exit would otherwise race for the code. */
const RTLD_NOW = 2;
const RTLD_NODELETE = 0x1000;

/** Variables that name the only drivers the Vulkan loader may use: the name of old loaders, then the current one. */
const DRIVER_VARIABLES = ["VK_ICD_FILENAMES", "VK_DRIVER_FILES"] as const;

/** The package's folder and version, or null when it is not installed (it is optional). */
function findPackage(): { folder: string; version: string } | null {
  try {
    let folder = dirname(createRequire(import.meta.url).resolve(PACKAGE));
    // The entry point lies some folders below package.json, which the package does not export.
    for (; folder !== dirname(folder); folder = dirname(folder)) {
      const manifest = join(folder, "package.json");
      if (!existsSync(manifest)) continue;
      const { name, version } = JSON.parse(readFileSync(manifest, "utf8")) as {
        name?: string;
        version?: string;
      };
      if (name === PACKAGE && version) return { folder, version };
    }
  } catch {}
  return null;
}

/** Why SwiftShader cannot run here, in words that say what to do, or null when it can. */
export function swiftShaderObstacle(): string | null {
  if (process.platform !== "linux" || process.arch !== "x64") {
    return `SwiftShader is packaged for Linux on x64 only, not for ${process.platform} on ${process.arch}`;
  }
  return findPackage() ? null : `the optional package ${PACKAGE} is not installed (npm i ${PACKAGE})`;
}

/** Reads a tar archive (ustar): calls `visit` with each regular file's base name and bytes. */
function readTar(archive: Buffer, visit: (name: string, data: Buffer) => void): void {
  const BLOCK = 512;
  for (let at = 0; at + BLOCK <= archive.length; ) {
    const field = (offset: number, length: number) =>
      archive.toString("latin1", at + offset, at + offset + length).split("\0", 1)[0];
    const name = field(0, 100);
    if (!name) return;
    const size = Number.parseInt(field(124, 12), 8);
    const kind = field(156, 1);
    if (!(size >= 0) || at + BLOCK + size > archive.length) throw new Error("the archive is damaged");
    if (kind === "0" || kind === "") {
      visit(name.slice(name.lastIndexOf("/") + 1), archive.subarray(at + BLOCK, at + BLOCK + size));
    }
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
  }
}

function isComplete(folder: string): boolean {
  return FILES.every((file) => existsSync(join(folder, file)));
}

/** Folders to keep the driver in, the best first: the user's cache, then one of this user in the temporary folder. */
function places(): string[] {
  const found: string[] = [];
  try {
    found.push(join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "laser-webgpu"));
  } catch {} // A user id without a home: containers run so.
  const temporary = join(tmpdir(), `laser-webgpu-${process.getuid?.()}`);
  // Everybody may write there: code is never loaded from a folder that another user made.
  const planted = existsSync(temporary) && lstatSync(temporary).uid !== process.getuid?.();
  return planted ? found : [...found, temporary];
}

/**
 * Unpacks SwiftShader, unless an earlier run did, and returns its folder. The folder appears in one rename, so that a
 * killed or a concurrent process never leaves half of it. Tries the cache folder (XDG_CACHE_HOME or ~/.cache), then
 * the temporary folder.
 *
 * Throws UserError when the package is missing or nothing can be written.
 */
export function unpackSwiftShader(): string {
  const obstacle = swiftShaderObstacle();
  if (obstacle) throw new UserError(obstacle);
  const { folder: source, version } = findPackage()!;
  const name = `swiftshader-${version}`;
  const found = places()
    .map((place) => join(place, name))
    .find(isComplete);
  if (found) return found;

  const contents = new Map<string, Buffer>();
  const archive = join(source, "bin", "swiftshader.tar.br");
  try {
    readTar(brotliDecompressSync(readFileSync(archive)), (file, data) => contents.set(file, data));
    for (const file of FILES) if (!contents.has(file)) throw new Error(`it holds no ${file}`);
  } catch (error) {
    throw new UserError(`cannot unpack ${archive}: ${(error as Error).message}; reinstall with npm ci`);
  }
  const problems: string[] = [];
  for (const place of places()) {
    let draft: string | null = null;
    try {
      mkdirSync(place, { recursive: true, mode: 0o700 });
      draft = mkdtempSync(join(place, `${name}.`));
      for (const file of FILES) writeFileSync(join(draft, file), contents.get(file)!);
      const target = join(place, name);
      if (existsSync(target) && !isComplete(target)) rmSync(target, { recursive: true, force: true });
      try {
        renameSync(draft, target);
      } catch (error) {
        // Another process was first, with the same files.
        if (!isComplete(target)) throw error;
        rmSync(draft, { recursive: true, force: true });
      }
      return target;
    } catch (error) {
      problems.push((error as Error).message);
      if (draft) rmSync(draft, { recursive: true, force: true });
    }
  }
  throw new UserError(
    `cannot unpack SwiftShader (15 MB): ${problems.join("; ")}; set XDG_CACHE_HOME to a folder that can be written`,
  );
}

/**
 * dlopen through Node, for libraries that are no addons: Node reports that they "did not self-register" after
 * loading them. Returns the error's text when the library could not be loaded at all.
 */
function load(library: string, flags: number): string | null {
  try {
    process.dlopen({ exports: {} }, library, flags);
  } catch (error) {
    const { message } = error as Error;
    if (!message.includes("did not self-register")) return message;
  }
  return null;
}

/** Whether this machine has a Vulkan loader of its own (Linux). Asking Dawn instead would print its warnings. */
export function hasVulkanLoader(): boolean {
  return load(LOADER, RTLD_NOW) === null;
}

/**
 * Runs `open` with SwiftShader as the only Vulkan driver. `open` must create Dawn's instance and ask it for the
 * adapter, which is when the drivers are read; the environment is restored afterwards, so that later instances and
 * child processes see the machine's own drivers. Must not overlap with another opening in this process.
 *
 * Throws UserError when SwiftShader cannot be unpacked or loaded.
 */
export async function withSwiftShader<T>(open: () => Promise<T>): Promise<T> {
  const folder = unpackSwiftShader();
  if (!hasVulkanLoader()) {
    // Once loaded, Dawn's own dlopen("libvulkan.so.1") finds it by that name.
    const problem = load(join(folder, LOADER), RTLD_NOW | RTLD_NODELETE);
    if (problem) throw new UserError(`cannot load SwiftShader's Vulkan loader: ${problem}`);
  }
  const before = DRIVER_VARIABLES.map((variable) => process.env[variable]);
  // The manifest names its library relative to itself.
  for (const variable of DRIVER_VARIABLES) process.env[variable] = join(folder, MANIFEST);
  try {
    return await open();
  } finally {
    DRIVER_VARIABLES.forEach((variable, i) => {
      if (before[i] === undefined) delete process.env[variable];
      else process.env[variable] = before[i];
    });
  }
}
