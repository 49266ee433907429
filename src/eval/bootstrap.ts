/**
 * The percentile bootstrap over users. Every column (a metric of a method, one number a user) is averaged over the
 * same resamples, so that the difference of two columns within a resample is a paired one.
 */
import { Random } from "../data/random.ts";

/** Share of the bootstrap distribution that an interval covers. */
export const CONFIDENCE = 0.95;

/** Resamples of the users. */
export const RESAMPLES = 1000;

export interface BootstrapSettings {
  /** Default 1000. */
  readonly resamples?: number;
  /** Default 1. The same seed and number of users give the same resamples. */
  readonly seed?: number | string;
}

/** A mean over users and its 95 % interval. All null without users; no interval for fewer than two. */
export interface Estimate {
  readonly value: number | null;
  readonly low: number | null;
  readonly high: number | null;
}

/** A difference of means over the same users, its 95 % interval, and how surprising it were without a difference. */
export interface Difference extends Estimate {
  /**
   * Two-sided: twice the smaller share of resampled differences on either side of zero, itself counted; at least
   * 2 / (resamples + 1). Below 0.05 where the interval leaves zero out. Null for fewer than two users.
   */
  readonly p: number | null;
}

/** The resampled means of some columns. */
export class Bootstrap {
  readonly users: number;
  private readonly means: readonly number[];
  /** resampled[c][r]: mean of column c in resample r; empty for fewer than two users. */
  private readonly resampled: readonly Float64Array[];

  /** Columns of one number a user, all of the same length. Throws when a number is not finite. */
  constructor(columns: readonly Float64Array[], settings: BootstrapSettings = {}) {
    const { resamples = RESAMPLES, seed = 1 } = settings;
    const users = columns.length ? columns[0].length : 0;
    for (const column of columns) {
      if (column.length !== users) throw new Error(`columns of ${users} and of ${column.length} users`);
      const bad = column.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0) throw new Error(`user row ${bad} has a metric that is not finite`);
    }
    this.users = users;
    this.means = columns.map((column) => column.reduce((a, b) => a + b, 0) / users);
    this.resampled = columns.map(() => new Float64Array(users < 2 ? 0 : resamples));
    if (users < 2) return;
    const groups: Float64Array[] = [];
    for (let c = 0; c < columns.length; c += 4) groups.push(interleave(columns.slice(c, c + 4), users));
    const random = new Random(seed, "bootstrap", users);
    const drawn = new Uint32Array(users);
    for (let r = 0; r < resamples; r++) {
      for (let n = 0; n < users; n++) drawn[n] = random.below(users);
      groups.forEach((group, g) => {
        sumsOfFour(group, drawn).forEach((sum, c) => {
          if (4 * g + c < columns.length) this.resampled[4 * g + c][r] = sum / users;
        });
      });
    }
  }

  /** Mean and interval of a column. */
  estimate(column: number): Estimate {
    if (this.users === 0) return { value: null, low: null, high: null };
    return { value: this.means[column], ...interval(this.resampled[column]) };
  }

  /** Mean, interval and p value of column `a` minus column `b`, paired by user. */
  difference(a: number, b: number): Difference {
    if (this.users === 0) return { value: null, low: null, high: null, p: null };
    const differences = this.resampled[a].map((mean, r) => mean - this.resampled[b][r]);
    const value = this.means[a] - this.means[b];
    const resamples = differences.length;
    if (resamples === 0) return { value, low: null, high: null, p: null };
    let below = 0;
    let above = 0;
    for (const difference of differences) {
      if (difference <= 0) below++;
      if (difference >= 0) above++;
    }
    const p = Math.min(1, (2 * (Math.min(below, above) + 1)) / (resamples + 1));
    return { value, ...interval(differences), p };
  }
}

/** Up to four columns as [users, 4], so that one drawn user is one run of memory; missing columns are zero. */
function interleave(columns: readonly Float64Array[], users: number): Float64Array {
  const rows = new Float64Array(4 * users);
  columns.forEach((column, c) => {
    for (let u = 0; u < users; u++) rows[4 * u + c] = column[u];
  });
  return rows;
}

/** Sums of the drawn rows of [users, 4]. Four scalar sums stay in registers: several times as fast as an array. */
function sumsOfFour(rows: Float64Array, drawn: Uint32Array): [number, number, number, number] {
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let n = 0; n < drawn.length; n++) {
    const row = 4 * drawn[n];
    a += rows[row];
    b += rows[row + 1];
    c += rows[row + 2];
    d += rows[row + 3];
  }
  return [a, b, c, d];
}

/** Mean, 95 % interval and p value of a[u] - b[u] over users: the paired test of two runs on the same users. */
export function pairedBootstrap(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  settings: BootstrapSettings = {},
): Difference {
  return new Bootstrap([Float64Array.from(a), Float64Array.from(b)], settings).difference(0, 1);
}

function interval(resampled: Float64Array): { low: number | null; high: number | null } {
  if (resampled.length === 0) return { low: null, high: null };
  const sorted = resampled.slice().sort();
  const tail = (1 - CONFIDENCE) / 2;
  return { low: quantile(sorted, tail), high: quantile(sorted, 1 - tail) };
}

/** Linear interpolation between order statistics (the default of R and NumPy). */
function quantile(sorted: Float64Array, share: number): number {
  const place = share * (sorted.length - 1);
  const under = Math.floor(place);
  const over = Math.min(under + 1, sorted.length - 1);
  return sorted[under] + (place - under) * (sorted[over] - sorted[under]);
}
