/** The report of `laser ablations` as text: a value above its difference to the full Laser. */
import { ABLATION_METRICS, type AblationReport, type PairedSpread, type Spread } from "./ablation-report.ts";
import { aligned, count, decimal, heading, NOTHING, probability, short, sign } from "./report-text.ts";

/** Writes the report: references first, then the rows under the headings of their tables. */
export function formatAblations(report: AblationReport): string {
  const { data, backbone, protocol, seeds, users, references, rows } = report;
  const seen = protocol.excludeSeen ? "without the user's seen items" : "seen items included";
  const lines = [
    `${data.name}: the ${protocol.split} item of ${count(users.all)} users (${count(users.cold)} with a cold one) among all ${count(data.items)} items, ${seen}.`,
    `Language model ${backbone}; ${seeds.length === 1 ? "seed" : "seeds"} ${seeds.join(", ")}${seeds.length === 1 ? "" : ": mean ± standard deviation over the seeds"}.`,
    `Below a value: its difference to ${rows[0].label}, paired by user${seeds.length === 1 ? "" : " and seed"}.`,
  ];
  const titles = ABLATION_METRICS.map(({ name, cold }) =>
    cold ? `cold ${heading(name.slice(5))}` : heading(name),
  );
  const table: string[][] = [["", ...titles]];
  for (const { name, metrics } of references)
    table.push([name, ...ABLATION_METRICS.map((metric) => decimal(metrics[metric.name]))]);
  let group = rows[0].table;
  for (const row of rows) {
    if (row.table !== group) {
      group = row.table;
      table.push(["", ...titles.map(() => "")], [group, ...titles.map(() => "")]);
    }
    table.push([row.label, ...ABLATION_METRICS.map((metric) => spreadText(row.metrics[metric.name]))]);
    const { difference } = row;
    if (difference)
      table.push(["", ...ABLATION_METRICS.map((metric) => differenceText(difference[metric.name]))]);
  }
  return `${[...lines, "", ...aligned(table)].join("\n")}\n`;
}

function spreadText({ mean, deviation }: Spread): string {
  return deviation === null ? decimal(mean) : `${decimal(mean)} ±${short(deviation)}`;
}

function differenceText({ mean, p }: PairedSpread): string {
  if (mean === null) return NOTHING;
  const value = `${sign(mean)}${short(mean)}`;
  return p === null ? value : `${value} ${probability(p)}`;
}
