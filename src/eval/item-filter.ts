/** The conditions of `laser recommend --where FIELD=VALUE`. */
import type { Item } from "../data/dataset.ts";
import { UserError } from "../files/user-error.ts";

const FIELDS = ["brand", "category"] as const;
type Field = (typeof FIELDS)[number];

/** Values that an error message lists at most. */
const MOST_LISTED = 6;

/**
 * 1 for every item that meets the conditions, each "brand=X" or "category=X"; null without conditions. Upper and lower
 * case and the space around values do not matter. Conditions on one field are alternatives, and every named field must
 * match. Throws a UserError for a malformed condition, an unknown field, a value that no item has (listing some that
 * exist), and conditions that no item meets together.
 */
export function itemsWhere(items: readonly Item[], conditions: readonly string[]): Uint8Array | null {
  if (conditions.length === 0) return null;
  const wanted = new Map<Field, Set<string>>();
  for (const condition of conditions) {
    const { field, value } = parse(condition);
    if (!items.some((item) => folded(item[field]) === value)) {
      throw new UserError(`--where ${condition}: ${noSuchValue(items, field, value)}`);
    }
    wanted.set(field, (wanted.get(field) ?? new Set()).add(value));
  }
  const meets = (item: Item): boolean =>
    [...wanted].every(([field, values]) => values.has(folded(item[field])));
  const allowed = Uint8Array.from(items, (item) => (meets(item) ? 1 : 0));
  if (!allowed.includes(1)) {
    throw new UserError(
      `--where ${conditions.join(" --where ")}: no item meets these together; leave one out`,
    );
  }
  return allowed;
}

function parse(condition: string): { field: Field; value: string } {
  const equals = condition.indexOf("=");
  const name = condition.slice(0, equals).trim().toLowerCase();
  const value = folded(condition.slice(equals + 1));
  if (equals < 0 || value === "") {
    throw new UserError(`--where ${condition}: expected FIELD=VALUE, for example category=Books`);
  }
  const field = FIELDS.find((known) => known === name);
  if (!field)
    throw new UserError(`--where ${condition}: items have no field "${name}"; use ${FIELDS.join(" or ")}`);
  return { field, value };
}

function noSuchValue(items: readonly Item[], field: Field, value: string): string {
  const counts = new Map<string, number>();
  for (const item of items) {
    const own = item[field];
    if (own) counts.set(own, (counts.get(own) ?? 0) + 1);
  }
  if (counts.size === 0) return `no item of this data has a ${field}; leave the condition out`;
  const common = [...counts.keys()].sort((a, b) => counts.get(b)! - counts.get(a)!);
  const similar = common.filter((own) => folded(own).includes(value));
  const shown = (similar.length ? similar : common).slice(0, MOST_LISTED);
  const kind = similar.length ? "similar values are" : `the most common of ${counts.size} are`;
  return `no item has this ${field}; ${kind} ${shown.map((own) => JSON.stringify(own)).join(", ")}`;
}

function folded(value: string | undefined): string {
  return (value ?? "").trim().toLowerCase();
}
