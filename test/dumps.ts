import { statSync } from "node:fs";
import { basename, join } from "node:path";
import type { Test } from "uvu";
import * as assert from "uvu/assert";
import { type Comparison, type FileReport, passes } from "../src/eval/compare/compare.ts";
import { Dump } from "../src/eval/compare/dump.ts";
import { findDumps } from "../src/eval/compare/find-dumps.ts";
import { reportLines } from "../src/eval/compare/report.ts";
import { type TensorToWrite, writeSafetensors } from "../src/files/safetensors.ts";
import { readSafetensors } from "../src/files/safetensors-whole.ts";
import { repositoryPath, sharedPath } from "./shared.ts";
import { ABSOLUTE_FLOOR } from "./tolerances.ts";

/** The committed dumps, made by test/reference. */
export const DUMPS = repositoryPath("test/reference/dumps");

/** Those of checkpoints that others publish, which are not in this repository. */
export const PUBLISHED = repositoryPath("test/reference/dumps-published");

/** Where stories260K lies, or null with a loud line. */
export const CHECKPOINTS = sharedPath("weights");

/** The committed dumps of some kinds; without ../shared, those of stories260K are left out. */
export async function committedDumps(kinds: readonly string[]): Promise<{ path: string; kind: string }[]> {
  const found: { path: string; kind: string }[] = [];
  for (const path of await findDumps([DUMPS, PUBLISHED])) {
    const { kind } = await Dump.read(path);
    const absent = CHECKPOINTS === null && basename(path).includes("stories260K");
    if (kinds.includes(kind) && !absent) found.push({ path, kind });
  }
  return found;
}

/** Fails with the report's lines unless every tensor is within its tolerance. */
export function assertPasses(report: FileReport): void {
  const bad = reportLines(report).filter((line) => line.endsWith("FAIL"));
  assert.ok(passes(report), `\n${report.file}\n${bad.join("\n")}`);
}

interface Changes {
  readonly params?: (params: Record<string, unknown>) => void;
  readonly kind?: string;
  /** A tensor's replacement, null to leave it out, or the tensor itself. */
  readonly tensor?: (tensor: TensorToWrite) => TensorToWrite | null;
  readonly more?: readonly TensorToWrite[];
}

/** A changed copy of a dump; returns its path. */
export async function changedDump(path: string, folder: string, changes: Changes): Promise<string> {
  const { tensors, metadata } = await readSafetensors(path);
  const params = JSON.parse(metadata.get("params") ?? "{}");
  changes.params?.(params);
  const change = changes.tensor ?? ((tensor: TensorToWrite) => tensor);
  const kept = [...tensors]
    .map(([name, tensor]) => change({ name, ...tensor }))
    .filter((tensor) => tensor !== null);
  const copy = join(folder, basename(path));
  await writeSafetensors(copy, [...kept, ...(changes.more ?? [])], {
    kind: changes.kind ?? metadata.get("kind") ?? "",
    params: JSON.stringify(params),
  });
  return copy;
}

/** A tensor moved by three times the tolerance it was held to: every comparison must see it. */
function moved(tensor: TensorToWrite, tolerance: number): TensorToWrite {
  const values = tensor.data as Float32Array | Int32Array;
  const move = (value: number) => {
    if (tolerance === 0) return value + 1;
    return tolerance === ABSOLUTE_FLOOR ? value + 3 * ABSOLUTE_FLOOR : value * (1 + 3 * tolerance);
  };
  return { ...tensor, data: values.map(move) };
}

/** The dump with most in it. */
function largest<T extends { path: string }>(dumps: readonly T[]): T {
  return dumps.reduce((a, b) => (statSync(b.path).size > statSync(a.path).size ? b : a));
}

/** Declares, for each kind, that a dump whose outputs are all wrong by a little fails in all of them. */
export function testSharpness(
  t: Test,
  comparison: () => Comparison,
  dumps: readonly { path: string; kind: string }[],
  folder: string,
): void {
  for (const kind of new Set(dumps.map((dump) => dump.kind))) {
    t(`${kind}: every output off by three tolerances fails`, async () => {
      const { path } = largest(dumps.filter((dump) => dump.kind === kind));
      const { tensors } = await comparison().file(path);
      const tolerances = new Map(
        tensors.flatMap((tensor) => (tensor.skipped === undefined ? [[tensor.name, tensor.tolerance]] : [])),
      );
      const wrong = await changedDump(path, folder, {
        tensor: (tensor) => {
          const tolerance = tolerances.get(tensor.name);
          return tolerance === undefined ? tensor : moved(tensor, tolerance);
        },
      });
      const report = await comparison().file(wrong);
      for (const tensor of report.tensors) {
        if (tensor.skipped === undefined) assert.not.ok(tensor.ok, `${path}: ${tensor.name} passes`);
      }
      assert.is(report.tensors.length, tensors.length);
    });
  }
}
