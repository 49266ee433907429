/** The report of `laser evaluate`: every method on the same users, with intervals and paired differences. */
import { COLD_SHARE, type Dataset } from "../data/dataset.ts";
import { CONFIDENCE, type Difference, RESAMPLES } from "./bootstrap.ts";
import type { EvaluationCases } from "./cases.ts";
import {
  type MethodRanks,
  type MetricName,
  SPLITS,
  type Split,
  SplitSummary,
  type Summary,
  warmFlags,
} from "./summary.ts";

export interface ReportRow extends Readonly<Record<Split, Summary>> {
  readonly name: string;
}

/** `of` minus `from`. */
export interface ReportDifference extends Readonly<Record<Split, Readonly<Record<MetricName, Difference>>>> {
  readonly of: string;
  readonly from: string;
}

/** The JSON form; docs/evaluation.md says what every field is. */
export interface Report {
  readonly format: "laser evaluation";
  readonly version: 1;
  readonly data: {
    readonly name: string;
    readonly hash: string;
    readonly users: number;
    readonly items: number;
    readonly interactions: number;
  };
  readonly protocol: {
    readonly split: "test" | "validation";
    readonly candidates: number;
    readonly excludeSeen: boolean;
    readonly coldShare: number;
    readonly coldItemsBy: "training interactions";
    readonly ties: "expected rank";
    readonly confidence: number;
    readonly resamples: number;
    readonly seed: number;
  };
  readonly users: Readonly<Record<Split, number>> & { readonly skipped: number };
  /** Share of the evaluated targets equal to the last item of the history; null without users. */
  readonly repeatShare: number | null;
  readonly rows: readonly ReportRow[];
  readonly differences: readonly ReportDifference[];
  /** What the rows do not say, a sentence each. */
  readonly notes: readonly string[];
}

/** Two rows by their names. */
export interface RowPair {
  readonly of: string;
  readonly from: string;
}

export interface ReportOptions {
  readonly dataset: Dataset;
  readonly evaluation: EvaluationCases;
  /** Rows of the report in its order, all over `evaluation.cases`. */
  readonly methods: readonly MethodRanks[];
  readonly excludeSeen: boolean;
  /** The row whose difference to every other row is shown, e.g. "Laser"; none by default. */
  readonly subject?: string;
  /** In its place: the differences to show, `of` minus `from`. */
  readonly pairs?: readonly RowPair[];
  readonly notes?: readonly string[];
  readonly resamples?: number;
  readonly seed?: number;
}

/**
 * Summarises ranks into a report. All methods of a split share their resamples. Throws when a rank is not finite, when
 * methods ranked different users, or when two rows have one name.
 */
export function buildReport(options: ReportOptions): Report {
  const { dataset, evaluation, methods, excludeSeen, subject, resamples = RESAMPLES, seed = 1 } = options;
  const { split, cases, cold, skipped } = evaluation;
  const names = methods.map(({ name }) => name);
  if (new Set(names).size !== names.length) throw new Error(`two rows have one name: ${names.join(", ")}`);
  const place = (name: string): number => {
    const row = names.indexOf(name);
    if (row < 0) throw new Error(`no row is named ${name}: ${names.join(", ")}`);
    return row;
  };
  if (subject !== undefined) place(subject);
  const others = subject === undefined ? [] : names.filter((name) => name !== subject);
  const pairs = options.pairs ?? others.map((from) => ({ of: subject!, from }));
  for (const { name, ranks } of methods) {
    if (ranks.rank.length !== cases.length) {
      throw new Error(`${name} ranked ${ranks.rank.length} users of ${cases.length}`);
    }
  }
  const flags = { all: null, cold, warm: warmFlags(cold) };
  const splits = bySplit((name) => SplitSummary.of(methods, flags[name], { resamples, seed }));
  const users = bySplit((name) => (methods.length ? splits[name].users : 0));
  const repeats = cases.filter(({ history, target }) => history.at(-1) === target).length;
  const { name, hash, statistics } = dataset;
  const { users: allUsers, items, interactions } = statistics;
  return {
    format: "laser evaluation",
    version: 1,
    data: { name, hash, users: allUsers, items, interactions },
    protocol: {
      split,
      candidates: items,
      excludeSeen,
      coldShare: COLD_SHARE,
      coldItemsBy: "training interactions",
      ties: "expected rank",
      confidence: CONFIDENCE,
      resamples,
      seed,
    },
    users: { ...users, skipped },
    repeatShare: cases.length ? repeats / cases.length : null,
    rows: names.map((row, m) => ({ name: row, ...bySplit((part) => splits[part].method(m)) })),
    differences: pairs.map(({ of, from }) => ({
      of,
      from,
      ...bySplit((part) => splits[part].difference(place(of), place(from))),
    })),
    notes: options.notes ?? [],
  };
}

function bySplit<T>(value: (split: Split) => T): Record<Split, T> {
  return Object.fromEntries(SPLITS.map((split) => [split, value(split)])) as Record<Split, T>;
}

/** The report as JSON text; field order and names are stable. Throws when a number is not finite. */
export function reportJson(report: Report): string {
  const finite = (key: string, value: unknown): unknown => {
    if (typeof value === "number" && !Number.isFinite(value)) throw new Error(`${key} is ${value}`);
    return value;
  };
  return `${JSON.stringify(report, finite, 2)}\n`;
}
