/** The report of `laser evaluate` as text: aligned columns, at most 120 characters wide for names up to 18. */
import type { Difference, Estimate } from "./bootstrap.ts";
import type { Report } from "./report.ts";
import { METRICS, type MetricName, type Split } from "./summary.ts";

/** Metrics whose differences are shown; the JSON form has all. */
const SHOWN_DIFFERENCES: readonly MetricName[] = ["recall@10", "ndcg@10", "mrr"];

/** Shown where there is no number. */
export const NOTHING = "-";

/** Writes the report. Every value stands above its 95 % interval. */
export function formatReport(report: Report): string {
  const { data, protocol, users, repeatShare, differences } = report;
  const seen = protocol.excludeSeen ? "without the user's seen items" : "seen items included";
  const lines = [
    `${data.name}: the ${protocol.split} item of ${count(users.all)} users among all ${count(protocol.candidates)} items, ${seen}.`,
    `95 % intervals below the values: ${count(protocol.resamples)} bootstrap resamples of the users. Ties get their expected rank.`,
  ];
  if (repeatShare !== null) {
    lines.push(
      `${percent(repeatShare)} of the targets repeat the item before them. tied: users whose target ties with another item.`,
    );
  }
  if (users.skipped) lines.push(`${count(users.skipped)} users with fewer than three items are left out.`);
  lines.push("", ...splitTable(report, "all"));
  const coldShare = Math.round(protocol.coldShare * 100);
  lines.push("", `Cold targets: the bottom ${coldShare} % of items by training interactions`);
  lines.push(...(users.cold ? splitTable(report, "cold") : ["(no user's target is cold)"]));
  for (const of of new Set(differences.map((difference) => difference.of))) {
    const own = differences.filter((difference) => difference.of === of);
    const from = own.length === 1 ? own[0].from : "the others";
    lines.push("", `${of} minus ${from}, paired by user`);
    lines.push(...differenceTable(own, users.cold > 0));
  }
  if (report.notes.length) lines.push("", ...report.notes);
  return `${lines.join("\n")}\n`;
}

function splitTable({ rows, users }: Report, split: Split): string[] {
  const title = `${split === "all" ? "all" : split} (${count(users[split])} users)`;
  const table: string[][] = [[title, ...METRICS.map(({ name }) => heading(name)), "tied"]];
  for (const row of rows) {
    const { metrics, tiedShare } = row[split];
    const estimates = METRICS.map(({ name }) => metrics[name]);
    const tied = tiedShare === null ? NOTHING : percent(tiedShare);
    table.push([row.name, ...estimates.map(({ value }) => decimal(value)), tied]);
    table.push(["", ...estimates.map(interval), ""]);
  }
  return aligned(table);
}

function differenceTable(differences: Report["differences"], cold: boolean): string[] {
  const table: string[][] = [];
  const splits: Split[] = cold ? ["all", "cold"] : ["all"];
  for (const split of splits) {
    table.push([split, ...SHOWN_DIFFERENCES.map(heading)]);
    for (const difference of differences) {
      const cells = SHOWN_DIFFERENCES.map((metric) => signedDifference(difference[split][metric]));
      table.push([difference.from, ...cells]);
    }
  }
  return aligned(table);
}

/** The first column to the left, the others to the right, two spaces between. */
export function aligned(table: readonly (readonly string[])[]): string[] {
  const widths = table[0].map((_, c) => Math.max(...table.map((row) => row[c].length)));
  return table.map((row) =>
    row
      .map((cell, c) => (c === 0 ? cell.padEnd(widths[c]) : cell.padStart(widths[c])))
      .join("  ")
      .trimEnd(),
  );
}

/** A metric's name as the head of a column. */
export function heading(metric: string): string {
  return metric.startsWith("recall") ? metric.replace("r", "R") : metric.toUpperCase();
}

/** Four digits, or a dash. */
export function decimal(value: number | null): string {
  return value === null ? NOTHING : value.toFixed(4);
}

/** Four digits in five characters: .0834, or 1.000. */
export function short(value: number): string {
  const digits = Math.abs(value).toFixed(4);
  return digits.startsWith("0") ? digits.slice(1) : digits.slice(0, -1);
}

/** "+" or "-". */
export function sign(value: number): string {
  return value < 0 ? "-" : "+";
}

function interval({ low, high }: Estimate): string {
  return low === null || high === null ? NOTHING : `${short(low)}-${short(high)}`;
}

function signedDifference({ value, low, high, p }: Difference): string {
  if (value === null) return NOTHING;
  const mean = `${sign(value)}${Math.abs(value).toFixed(4)}`;
  if (low === null || high === null || p === null) return mean;
  return `${mean} [${sign(low)}${short(low)}, ${sign(high)}${short(high)}] ${probability(p)}`;
}

/** A p value; 0.002 is the least that 1000 resamples can tell. */
export function probability(p: number): string {
  return p < 0.002 ? "p<0.002" : `p=${p.toFixed(3)}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

/** A whole number with its thousands apart. */
export function count(n: number): string {
  return n.toLocaleString("en-US");
}
