// @ts-check
/**
 * What is made of the measured times: medians, the best right peer, the ratio, and the printed table.
 */
import { TOLERANCE } from "./reference.js";

/** @typedef {import("./cases.js").Case} Case */
/**
 * What one engine did with one case. Exactly one of `none` (it has no such thing), `failed` (why it gave no result) and
 * `error` (of its result against float64) is not null. `processor`: of each round, like `times`.
 * @typedef {{ engine: string, form: string, none: string | null, failed: string | null, error: number | null, times: number[], processor?: number[] }} Entry
 * @typedef {{ median: number, least: number, most: number }} Summary
 * @typedef {{ engine: string, ratio: number, least: number, most: number, target: number, reached: boolean, processor: number | null }} Verdict
 */

/** @type {(values: readonly number[]) => number} */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** @type {(times: readonly number[]) => Summary | null} */
export function summary(times) {
  if (times.length === 0) return null;
  return { median: median(times), least: Math.min(...times), most: Math.max(...times) };
}

/** Whether the engine's result is right and its time counts. @type {(entry: Entry) => boolean} */
export function isRight({ failed, error, times }) {
  return failed === null && error !== null && error <= TOLERANCE && times.length > 0;
}

/**
 * Ours against the fastest peer whose result is right: the peer's median over ours. `least` and `most` are of the ratios
 * of single rounds, in which the engines take turns: the load of the machine is nearly the same for both. Null when ours is
 * not right or no peer is. `processor`: the same ratio of processor time, by the right peer that spends least.
 * @type {(ours: Entry, peers: readonly Entry[], target: number) => Verdict | null}
 */
export function verdict(ours, peers, target) {
  const right = peers.filter(isRight).sort((a, b) => median(a.times) - median(b.times));
  if (right.length === 0 || !isRight(ours)) return null;
  const [best] = right;
  const ratio = median(best.times) / median(ours.times);
  const rounds = best.times.slice(0, ours.times.length).map((time, i) => time / ours.times[i]);
  const [least, most] = [Math.min(...rounds), Math.max(...rounds)];
  const spent = right.flatMap((peer) => (peer.processor?.length ? [median(peer.processor)] : []));
  const processor =
    spent.length && ours.processor?.length ? Math.min(...spent) / median(ours.processor) : null;
  return { engine: best.engine, ratio, least, most, target, reached: ratio >= target, processor };
}

/** @type {(value: number) => string} */
const ms = (value) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);

/** @type {(error: number) => string} */
const percent = (error) => (error === Infinity ? "not finite" : `${(100 * error).toPrecision(2)} %`);

/** One engine's cell. @type {(entry: Entry) => string} */
export function cell(entry) {
  if (entry.none !== null) return "none";
  if (entry.failed !== null) return "failed";
  const times = summary(entry.times);
  const text = times ? `${ms(times.median)} (${ms(times.least)} .. ${ms(times.most)})` : "not timed";
  const wrong = entry.error !== null && entry.error > TOLERANCE;
  return wrong ? `wrong (error ${percent(/** @type {number} */ (entry.error))}), ${text}` : text;
}

/** The last cell: the ratio and the target. @type {(verdict: Verdict | null, target: number) => string} */
export function verdictCell(result, target) {
  if (!result) return `none to compare (target ${target})`;
  const { ratio, least, most, reached } = result;
  const range = `${least.toFixed(1)} .. ${most.toFixed(1)}`;
  return `${ratio.toFixed(1)} (${range}), target ${target}: ${reached ? "reached" : "NOT reached"}`;
}

/**
 * The table in Markdown, a row a case.
 * @type {(engines: readonly string[], rows: readonly { case: Pick<Case, "name" | "target">, entries: readonly Entry[], verdict: Verdict | null }[]) => string}
 */
export function table(engines, rows) {
  const heading = ["work, ms", ...engines, "better right peer / ours", "by processor time"];
  const lines = rows.map(({ case: each, entries, verdict: result }) => [
    each.name,
    ...entries.map(cell),
    verdictCell(result, each.target),
    result?.processor?.toFixed(1) ?? "-",
  ]);
  const line = (/** @type {string[]} */ cells) => `| ${cells.join(" | ")} |`;
  return [line(heading), line(heading.map(() => "---")), ...lines.map(line)].join("\n");
}
