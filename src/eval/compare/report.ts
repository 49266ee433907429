import type { FileReport, TensorReport } from "./compare.ts";

/** Lines for people: the file, then one line a tensor with its errors, tolerance and verdict. */
export function reportLines(report: FileReport): string[] {
  const width = Math.max(24, ...report.tensors.map(({ name }) => name.length));
  return [
    `${report.file} (${report.kind})`,
    ...report.tensors.map((tensor) => `  ${tensor.name.padEnd(width)}  ${tensorText(tensor)}`),
  ];
}

function tensorText(tensor: TensorReport): string {
  if (tensor.skipped !== undefined) return `not compared: ${tensor.skipped}`;
  const { absolute, relative, tolerance, ok } = tensor;
  const limit = tolerance === 0 ? "exact" : tolerance.toExponential(0);
  return `absolute ${number(absolute)}  relative ${number(relative)}  tolerance ${limit.padEnd(5)}  ${ok ? "ok" : "FAIL"}`;
}

function number(value: number): string {
  return value.toExponential(2).padStart(8);
}

/** Totals over many files. */
export interface Summary {
  readonly files: number;
  readonly tensors: number;
  readonly skipped: number;
  /** Tensors outside their tolerance. */
  readonly failed: number;
  /** Files that could not be compared. */
  readonly errors: number;
  /** Largest relative error by kind, with its file and tensor. */
  readonly worst: readonly { kind: string; relative: number; file: string; tensor: string }[];
}

/** Adds up reports; `errors` is the number of files that gave none. */
export function summarize(reports: readonly FileReport[], errors: number): Summary {
  const worst = new Map<string, { kind: string; relative: number; file: string; tensor: string }>();
  let tensors = 0;
  let skipped = 0;
  let failed = 0;
  for (const { file, kind, tensors: compared } of reports) {
    for (const tensor of compared) {
      if (tensor.skipped !== undefined) {
        skipped++;
        continue;
      }
      tensors++;
      if (!tensor.ok) failed++;
      const { relative } = tensor;
      const before = worst.get(kind);
      // NaN is worse than any number.
      if (!before || !(relative <= before.relative)) {
        worst.set(kind, { kind, relative, file, tensor: tensor.name });
      }
    }
  }
  return {
    files: reports.length + errors,
    tensors,
    skipped,
    failed,
    errors,
    worst: [...worst.values()],
  };
}

/** The summary for people. */
export function summaryLines(summary: Summary): string[] {
  const { files, tensors, skipped, failed, errors, worst } = summary;
  return [
    "",
    "largest relative error by kind",
    ...worst.map(({ kind, relative, file, tensor }) => {
      return `  ${kind.padEnd(16)}${number(relative)}  ${tensor} of ${file}`;
    }),
    "",
    `${files} files, ${tensors} tensors compared, ${skipped} known and not compared: ` +
      `${failed} tensors FAIL, ${errors} files with errors`,
  ];
}
