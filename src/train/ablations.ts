/**
 * The rows of the paper's ablation tables (and the variants of Laser that others describe), each by the fields that it
 * changes: `laser train --ablation NAME`, the rows of `laser ablations` and a table of docs/config.md.
 */
import { TEMPLATES } from "../data/template.ts";
import type { AblationRow } from "../eval/ablation-report.ts";
import { UserError } from "../files/user-error.ts";
import { type Config, type ConfigName, checkConfig } from "./config.ts";

export interface Ablation {
  readonly name: string;
  /** Where the paper has it. */
  readonly table: "Tables 3, 4" | "Table 5" | "not in the paper";
  /** What the paper calls it. */
  readonly row: string;
  readonly fields: Partial<Config>;
}

const modules: readonly Omit<Ablation, "table">[] = [
  { name: "no-prefix", row: "w/o prefix", fields: { prefix: "none" } },
  { name: "mean-pooling", row: "w/o suffix, w/ average pooling", fields: { pooling: "mean" } },
  { name: "eos", row: "w/o suffix, w/ [EOS]", fields: { pooling: "eos" } },
  { name: "no-mformer", row: "w/o M-Former", fields: { prefix: "free" } },
  { name: "one-expert", row: "w/ one expert", fields: { experts: 1, activeExperts: 1 } },
  { name: "no-load-balancing", row: "w/o load-balancing loss", fields: { lambda: 0 } },
  { name: "no-phase1", row: "w/o training phase 1", fields: { phase1Epochs: 0 } },
  { name: "no-phase2", row: "w/o training phase 2", fields: { phase2Epochs: 0 } },
];

const TEMPLATE_ROWS: Readonly<Record<string, string>> = {
  "no-phrase": "w/o specified phrase",
  "no-instruction": "w/o instruction",
  "two-instructions": "w/ two instructions",
};

/** Every row but the full Laser. */
export const ABLATIONS: readonly Ablation[] = [
  ...modules.map((ablation) => ({ ...ablation, table: "Tables 3, 4" as const })),
  ...TEMPLATES.filter((name) => name !== "paper").map((name) => ({
    name,
    table: "Table 5" as const,
    row: TEMPLATE_ROWS[name],
    fields: { template: name },
  })),
  {
    name: "ffn-experts",
    table: "not in the paper",
    row: "experts in the feed-forwards",
    fields: { moe: "ffn" },
  },
  { name: "projection", table: "not in the paper", row: "w/ projection of h", fields: { projection: true } },
];

/** An ablation by name. Throws UserError naming those there are. */
export function ablationNamed(name: string, source: string): Ablation {
  const found = ABLATIONS.find((ablation) => ablation.name === name);
  if (found) return found;
  throw new UserError(
    `${source} ${name}: there are ${ABLATIONS.map((ablation) => ablation.name).join(", ")}`,
  );
}

/** Names that stand for several rows, and the table they are of. */
export const ROW_GROUPS: Readonly<Record<string, Ablation["table"]>> = {
  table3: "Tables 3, 4",
  table4: "Tables 3, 4",
  table5: "Table 5",
  variants: "not in the paper",
};

/** The ablations that names of rows and of groups stand for, each once, in the order of the table. Throws UserError. */
export function ablationsNamed(names: readonly string[], source: string): Ablation[] {
  const wanted = new Set(
    names.flatMap((name) =>
      Object.hasOwn(ROW_GROUPS, name)
        ? ABLATIONS.filter(({ table }) => table === ROW_GROUPS[name])
        : [ablationNamed(name, source)],
    ),
  );
  return ABLATIONS.filter((ablation) => wanted.has(ablation));
}

/** A field and the values it takes in turn: a figure of the paper. */
export interface Sweep {
  readonly field: ConfigName;
  readonly values: readonly Config[ConfigName][];
}

/** A row of the table and the configuration of its runs, but for the seed. */
export interface PlannedRow extends AblationRow {
  readonly config: Config;
}

/**
 * The rows of a table around a base: the full Laser, the ablations, and a row for every value of every sweep. Where a
 * swept K is below k, k follows it, and the row says so. Throws UserError for a row whose fields contradict each other.
 */
export function planRows(
  base: Config,
  ablations: readonly Ablation[],
  sweeps: readonly Sweep[],
): PlannedRow[] {
  const row = (name: string, label: string, table: string, fields: Partial<Config>): PlannedRow => {
    const config = checkConfig({ ...base, ...fields }, `row ${name}`);
    return { name, label, table, fields, config };
  };
  const swept = sweeps.flatMap(({ field, values }) =>
    values.map((value) => {
      const name = `${field}=${value}`;
      const fields: Partial<Config> = { [field]: value };
      const follows = field === "experts" && Number(value) < base.activeExperts;
      if (follows) fields.activeExperts = Number(value);
      const label = follows ? `${name} (activeExperts=${value})` : name;
      return row(name, label, `sweep of ${field}`, fields);
    }),
  );
  return [
    row("laser", "Laser", "", {}),
    ...ablations.map(({ name, row: label, table, fields }) => row(name, label, table, fields)),
    ...swept,
  ];
}
