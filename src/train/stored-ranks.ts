/** The ranks of a finished run, kept in its folder: a table over many runs is printed again without encoding anyone. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { EvaluationCases } from "../eval/cases.ts";
import type { Ranks } from "../eval/rank.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { readJsonObject } from "../files/json.ts";

/** What ranks depend on beside the run. */
export interface RanksOf {
  readonly evaluation: EvaluationCases;
  readonly excludeSeen: boolean;
}

function pathOf(folder: string, { evaluation, excludeSeen }: RanksOf): string {
  return join(folder, `ranks-${evaluation.split}${excludeSeen ? "-exclude-seen" : ""}.json`);
}

/** The stored ranks of a run, or null when there are none of these users. */
export async function storedRanks(folder: string, of: RanksOf): Promise<Ranks | null> {
  const path = pathOf(folder, of);
  if (!existsSync(path)) return null;
  const { users, rank, tied } = await readJsonObject(path);
  if (JSON.stringify(users) !== JSON.stringify([...of.evaluation.users])) return null;
  return { rank: Float64Array.from(rank as number[]), tied: Uint8Array.from(tied as number[]) };
}

/** Stores the ranks of a finished run. */
export async function storeRanks(folder: string, of: RanksOf, { rank, tied }: Ranks): Promise<void> {
  const content = { users: [...of.evaluation.users], rank: [...rank], tied: [...tied] };
  await writeFileAtomic(pathOf(folder, of), `${JSON.stringify(content)}\n`);
}
