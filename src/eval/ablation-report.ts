/**
 * The report of `laser ablations`: every row of a table trained once a seed, its figures as mean and standard deviation
 * over the seeds, and its difference to the full Laser, paired by user and seed.
 */
import { Bootstrap, CONFIDENCE, RESAMPLES } from "./bootstrap.ts";
import type { EvaluationCases } from "./cases.ts";
import { ndcg, recall, reciprocalRank } from "./metrics.ts";
import type { Ranks } from "./rank.ts";
import type { MethodRanks } from "./summary.ts";

/** The figures of the table. */
export const ABLATION_METRICS = [
  { name: "recall@10", cold: false, of: (rank: number) => recall(rank, 10) },
  { name: "ndcg@10", cold: false, of: (rank: number) => ndcg(rank, 10) },
  { name: "mrr", cold: false, of: reciprocalRank },
  { name: "cold recall@10", cold: true, of: (rank: number) => recall(rank, 10) },
] as const;

export type AblationMetric = (typeof ABLATION_METRICS)[number]["name"];

/** A figure of each seed, their mean and their standard deviation (n - 1; null for one seed). Null without users. */
export interface Spread {
  readonly values: readonly number[];
  readonly mean: number | null;
  readonly deviation: number | null;
}

/**
 * A difference to the full Laser, seed by seed; interval and p value are of the users' figures averaged over the seeds
 * (paired bootstrap over users).
 */
export interface PairedSpread extends Spread {
  readonly low: number | null;
  readonly high: number | null;
  readonly p: number | null;
}

/** What a row of the table is, before its figures. */
export interface AblationRow {
  readonly name: string;
  /** How the paper, or the sweep, calls it. */
  readonly label: string;
  /** The heading it stands under. */
  readonly table: string;
  /** The fields in which it differs from the full Laser. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** A row and what its runs made of each case, one entry a seed. */
export interface RankedRow extends AblationRow {
  readonly folders: string[];
  readonly ranks: Ranks[];
}

type ByMetric<T> = Readonly<Record<AblationMetric, T>>;

/** The JSON form; docs/evaluation.md says what every field is. */
export interface AblationReport {
  readonly format: "laser ablations";
  readonly version: 1;
  readonly data: { readonly name: string; readonly hash: string; readonly items: number };
  readonly backbone: string;
  readonly protocol: {
    readonly split: "test" | "validation";
    readonly excludeSeen: boolean;
    readonly confidence: number;
    readonly resamples: number;
  };
  readonly seeds: readonly number[];
  readonly users: { readonly all: number; readonly cold: number };
  /** Popularity, Markov-1 and the recommender underneath: figures that no seed of Laser changes. */
  readonly references: readonly { readonly name: string; readonly metrics: ByMetric<number | null> }[];
  /** The full Laser first. */
  readonly rows: readonly (AblationRow & {
    readonly folders: readonly string[];
    readonly metrics: ByMetric<Spread>;
    /** This row minus the full Laser; null for the full Laser itself. */
    readonly difference: ByMetric<PairedSpread> | null;
  })[];
}

export interface AblationReportOptions {
  readonly data: AblationReport["data"];
  readonly backbone: string;
  readonly evaluation: EvaluationCases;
  readonly excludeSeen: boolean;
  readonly seeds: readonly number[];
  readonly references: readonly MethodRanks[];
  /** The full Laser first, each row with the ranks of every seed, in the order of `seeds`. */
  readonly rows: readonly RankedRow[];
}

/** Mean and standard deviation of the seeds' figures. */
export function spread(values: readonly number[]): Spread {
  const n = values.length;
  if (n === 0 || values.some(Number.isNaN)) return { values: [], mean: null, deviation: null };
  const mean = values.reduce((a, b) => a + b, 0) / n;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { values, mean, deviation: n < 2 ? null : Math.sqrt(squares / (n - 1)) };
}

/** Builds the report. Throws when a row lacks a seed, or ranked other users. */
export function buildAblationReport(options: AblationReportOptions): AblationReport {
  const { data, backbone, evaluation, excludeSeen, seeds, references, rows } = options;
  const { split, cases, cold } = evaluation;
  const coldUsers = Array.from(cold.keys()).filter((u) => cold[u] === 1);
  const allUsers = Array.from(cases.keys());
  for (const { name, ranks } of rows) {
    if (ranks.length !== seeds.length || ranks.some(({ rank }) => rank.length !== cases.length))
      throw new Error(`${name}: expected ${seeds.length} seeds of ${cases.length} users`);
  }
  /** The metric of every user that it is over, for one ranking. */
  const perUser = (metric: (typeof ABLATION_METRICS)[number], { rank }: Ranks): Float64Array =>
    Float64Array.from(metric.cold ? coldUsers : allUsers, (u) => metric.of(rank[u]));
  const mean = (values: Float64Array): number => values.reduce((a, b) => a + b, 0) / values.length;
  const figures = (metric: (typeof ABLATION_METRICS)[number], row: RankedRow): number[] =>
    row.ranks.map((ranks) => mean(perUser(metric, ranks)));
  /** Every user's figure, averaged over the seeds. */
  const averaged = (metric: (typeof ABLATION_METRICS)[number], row: RankedRow): Float64Array => {
    const seedsOf = row.ranks.map((ranks) => perUser(metric, ranks));
    return seedsOf[0].map((_, u) => seedsOf.reduce((sum, values) => sum + values[u], 0) / seedsOf.length);
  };
  const full = rows[0];
  const differences = new Map(
    ABLATION_METRICS.map((metric) => {
      const bootstrap = new Bootstrap(rows.map((row) => averaged(metric, row)));
      return [metric.name, (row: number) => bootstrap.difference(row, 0)] as const;
    }),
  );
  return {
    format: "laser ablations",
    version: 1,
    data,
    backbone,
    protocol: { split, excludeSeen, confidence: CONFIDENCE, resamples: RESAMPLES },
    seeds,
    users: { all: cases.length, cold: coldUsers.length },
    references: references.map(({ name, ranks }) => ({
      name,
      metrics: byMetric((metric) => spread([mean(perUser(metric, ranks))]).mean),
    })),
    rows: rows.map((row, r) => {
      const { name, label, table, fields, folders } = row;
      return {
        ...{ name, label, table, fields, folders },
        metrics: byMetric((metric) => spread(figures(metric, row))),
        difference:
          r === 0
            ? null
            : byMetric((metric) => {
                const base = figures(metric, full);
                const { low, high, p } = differences.get(metric.name)!(r);
                return { ...spread(figures(metric, row).map((value, s) => value - base[s])), low, high, p };
              }),
      };
    }),
  };
}

function byMetric<T>(value: (metric: (typeof ABLATION_METRICS)[number]) => T): ByMetric<T> {
  return Object.fromEntries(ABLATION_METRICS.map((metric) => [metric.name, value(metric)])) as ByMetric<T>;
}
