import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { repositoryRoot } from "../llm/locate.ts";

/** This package's version. */
export function packageVersion(): string {
  return versionIn(repositoryRoot()) ?? "unknown";
}

/** Versions that a run's numbers may depend on. */
export function versions(): Record<"laser" | "node" | "webgpu", string> {
  let webgpu: string | null = null;
  try {
    // The package does not export its package.json: walk up from its entry.
    let folder = dirname(fileURLToPath(import.meta.resolve("webgpu")));
    for (; webgpu === null && dirname(folder) !== folder; folder = dirname(folder))
      webgpu = versionIn(folder);
  } catch {
    // Installed in some other way: the run is as good without its number.
  }
  return { laser: packageVersion(), node: process.version, webgpu: webgpu ?? "unknown" };
}

function versionIn(folder: string): string | null {
  try {
    const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as {
      version?: unknown;
    };
    return typeof version === "string" ? version : null;
  } catch {
    return null;
  }
}
