/** From the ranks of one or several methods on the same users to metrics with intervals, for all and for cold targets. */
import { Bootstrap, type BootstrapSettings, type Difference, type Estimate } from "./bootstrap.ts";
import { CUTOFFS, ndcg, recall, reciprocalRank } from "./metrics.ts";
import type { Ranks } from "./rank.ts";

type Cutoff = (typeof CUTOFFS)[number];

export type MetricName = `recall@${Cutoff}` | `ndcg@${Cutoff}` | "mrr";

/** The metrics of the report, in its order, as functions of the expected rank. */
export const METRICS: readonly { readonly name: MetricName; readonly of: (rank: number) => number }[] = [
  ...CUTOFFS.map((n) => ({ name: `recall@${n}` as const, of: (rank: number) => recall(rank, n) })),
  ...CUTOFFS.map((n) => ({ name: `ndcg@${n}` as const, of: (rank: number) => ndcg(rank, n) })),
  { name: "mrr", of: reciprocalRank },
];

/** Which users a figure is over: all, or those whose target is a cold item, or is not. */
export const SPLITS = ["all", "cold", "warm"] as const;
export type Split = (typeof SPLITS)[number];

/** A method's figures over one split. */
export interface Summary {
  readonly users: number;
  /** Share of users whose target has exactly the score of another candidate; null without users. */
  readonly tiedShare: number | null;
  readonly metrics: Readonly<Record<MetricName, Estimate>>;
}

/** A method and what it made of each case. */
export interface MethodRanks {
  readonly name: string;
  readonly ranks: Ranks;
}

/** Figures of several methods over one split, and their paired differences. */
export class SplitSummary {
  private constructor(
    readonly users: number,
    private readonly tied: readonly (number | null)[],
    private readonly bootstrap: Bootstrap,
  ) {}

  /**
   * Summarises methods over the users whose flag is 1 (all users for null). Throws when a rank is not a finite number
   * from 1 on, or when methods ranked different numbers of users.
   */
  static of(
    methods: readonly MethodRanks[],
    flags: ArrayLike<number> | null,
    settings: BootstrapSettings = {},
  ): SplitSummary {
    const total = methods.length ? methods[0].ranks.rank.length : 0;
    for (const method of methods) checkRanks(method, total);
    if (flags && flags.length !== total) throw new Error(`${flags.length} flags for ${total} users`);
    const users: number[] = [];
    for (let u = 0; u < total; u++) if (!flags || flags[u] === 1) users.push(u);
    const columns = methods.flatMap(({ ranks }) =>
      METRICS.map((metric) => Float64Array.from(users, (u) => metric.of(ranks.rank[u]))),
    );
    const tied = methods.map(({ ranks }) =>
      users.length ? users.reduce((sum, u) => sum + ranks.tied[u], 0) / users.length : null,
    );
    return new SplitSummary(users.length, tied, new Bootstrap(columns, settings));
  }

  /** The figures of a method, by its place in the list. */
  method(m: number): Summary {
    const metrics = byMetric((n) => this.bootstrap.estimate(m * METRICS.length + n));
    return { users: this.users, tiedShare: this.tied[m], metrics };
  }

  /** Method a minus method b, paired by user. */
  difference(a: number, b: number): Record<MetricName, Difference> {
    return byMetric((n) => this.bootstrap.difference(a * METRICS.length + n, b * METRICS.length + n));
  }
}

/** One method's figures for all targets, cold ones and warm ones. `cold` has 1 where a user's target is cold. */
export function summarize(
  ranks: Ranks,
  cold: ArrayLike<number>,
  settings: BootstrapSettings = {},
): Record<Split, Summary> {
  const methods = [{ name: "ranks", ranks }];
  const of = (flags: ArrayLike<number> | null) => SplitSummary.of(methods, flags, settings).method(0);
  return { all: of(null), cold: of(cold), warm: of(warmFlags(cold)) };
}

/** 1 where the cold flag is 0. */
export function warmFlags(cold: ArrayLike<number>): Uint8Array {
  return Uint8Array.from(cold, (flag) => 1 - flag);
}

function byMetric<T>(value: (n: number) => T): Record<MetricName, T> {
  return Object.fromEntries(METRICS.map(({ name }, n) => [name, value(n)])) as Record<MetricName, T>;
}

function checkRanks({ name, ranks }: MethodRanks, users: number): void {
  if (ranks.rank.length !== users || ranks.tied.length !== users) {
    throw new Error(`${name} ranked ${ranks.rank.length} users, and the first method ${users}`);
  }
  for (let u = 0; u < users; u++) {
    if (!Number.isFinite(ranks.rank[u]) || ranks.rank[u] < 1) {
      throw new Error(`${name}: user row ${u} has rank ${ranks.rank[u]}; its scores are not finite`);
    }
  }
}
