/** What `laser evaluate` ranks: trained runs on the same users, or recommenders alone. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import type { Dataset } from "../data/dataset.ts";
import { type EvaluationCases, evaluationCases } from "../eval/cases.ts";
import type { RowPair } from "../eval/report.ts";
import type { MethodRanks } from "../eval/summary.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { WeightStorage } from "../llm/weight-stream.ts";
import { rankCounts, rankFrozen, rankLaser } from "./evaluate.ts";
import { runUsers } from "./examples.ts";
import { closeRun, openRun, runDataset } from "./open-run.ts";
import type { Progress } from "./progress.ts";
import { type RecommenderChoice, recommenderFor, type TrainedRecommender } from "./recommender.ts";
import { RECOMMENDER_FILE } from "./recommender-file.ts";
import type { TrainedName } from "./recommender-settings.ts";
import { readRun, type StoredRun } from "./run-folder.ts";

export interface EvaluateOptions {
  /** Users to evaluate; 0: all; by default those that the run was trained on, or all of other data. */
  readonly users?: number;
  /** Other data to test runs on; `recommender` is one of that data, by default of the kind that each run was trained with. */
  readonly elsewhere?: { readonly dataset: Dataset; readonly recommender: RecommenderChoice | null };
  /** Stores a run's backbone otherwise than in training; a row for each. */
  readonly weights?: readonly WeightStorage[];
  readonly excludeSeen: boolean;
  readonly progress: Progress;
  readonly signal?: AbortSignal;
}

/** Everything that a report is made of. */
export interface Evaluated {
  readonly dataset: Dataset;
  readonly evaluation: EvaluationCases;
  readonly methods: readonly MethodRanks[];
  readonly excludeSeen: boolean;
  readonly pairs: readonly RowPair[];
  readonly notes: readonly string[];
}

/**
 * Ranks the users of one run, or of several on the same data, with the reference rows. One run is compared with every
 * reference, several (or one in several storages) with each other, later ones with earlier ones. With `elsewhere` they
 * are tested on other data than they were trained on (Figure 3: zero-shot). Throws UserError for runs on different data
 * or users.
 */
export async function evaluateRuns(
  gpu: Gpu,
  folders: readonly string[],
  options: EvaluateOptions,
): Promise<Evaluated> {
  const { excludeSeen, progress, elsewhere } = options;
  const runs: StoredRun[] = [];
  for (const folder of folders) runs.push(await readRun(folder));
  const rows = rowsOf(runs, options.weights);
  if (!elsewhere) requireSameData(runs);
  const dataset = elsewhere?.dataset ?? (await runDataset(runs[0], progress));
  const users = elsewhere ? runUsers(dataset, options.users ?? 0) : usersOf(dataset, runs, options.users);
  const evaluation = evaluationCases(dataset, { users });
  const recommenders: MethodRanks[] = [];
  const lasers: MethodRanks[] = [];
  const notes: string[] = [];
  const ranked = new Set<string>();
  // One run after another: two large backbones need not fit into memory together.
  for (const { run, weights, name: row } of rows) {
    const other = elsewhere && (await recommenderElsewhere(gpu, run, elsewhere, options));
    const open = await openRun(gpu, run.folder, progress, {
      weights,
      elsewhere: other && { dataset, recommender: other.model },
    });
    try {
      const { session, embeddings } = open;
      const { recommender } = session;
      const identity = await fileHash(join(other?.folder ?? run.folder, RECOMMENDER_FILE));
      if (run.info.data.hash !== dataset.hash)
        notes.push(`${row} was trained on ${run.info.data.name}; its item encoder embedded these items.`);
      if (!ranked.has(identity)) {
        ranked.add(identity);
        const own = await rankFrozen(gpu, recommender, evaluation, excludeSeen, progress);
        if (!own) notes.push(cannotRank(recommender.label, runs.length > 1 ? row : null));
        else if (!recommenders.some(({ name }) => name === own.name)) recommenders.push(own);
        else recommenders.push({ ...own, name: `${own.name} (${row})` });
      }
      // Items that were added later are nobody's target: the candidates are the dataset's.
      const known = embeddings.rows(0, dataset.items.length);
      lasers.push(await rankLaser(session, known, evaluation, excludeSeen, progress, row));
    } finally {
      closeRun(open);
    }
  }
  const methods = [...rankCounts(dataset, evaluation, excludeSeen), ...recommenders, ...lasers];
  const pairs =
    rows.length === 1
      ? methods.slice(0, -1).map(({ name }) => ({ of: rows[0].name, from: name }))
      : laterMinusEarlier(rows.map(({ name }) => name));
  return { dataset, evaluation, methods, excludeSeen, pairs, notes };
}

/**
 * Ranks a dataset's users by recommenders alone, without any run: each is compared with popularity, with Markov-1 and
 * with those before it. A recommender that is named and not trained yet is trained first.
 */
export async function evaluateRecommenders(
  gpu: Gpu,
  dataset: Dataset,
  choices: readonly RecommenderChoice[],
  options: EvaluateOptions,
): Promise<Evaluated> {
  const { excludeSeen, progress, signal, users = 0 } = options;
  const evaluation = evaluationCases(dataset, { users: runUsers(dataset, users) });
  const methods = rankCounts(dataset, evaluation, excludeSeen);
  const notes: string[] = [];
  for (const choice of choices) {
    const { model, folder } = await recommenderFor(gpu, dataset, choice, { progress, signal });
    const own = await rankFrozen(gpu, model, evaluation, excludeSeen, progress);
    const taken = methods.some(({ name }) => name === own?.name);
    if (!own) notes.push(cannotRank(model.label, null));
    else methods.push(taken ? { ...own, name: `${own.name} (${basename(folder)})` } : own);
    model.release(gpu);
  }
  const counted = 2;
  const pairs = methods
    .slice(counted)
    .flatMap(({ name }, m) => methods.slice(0, counted + m).map((from) => ({ of: name, from: from.name })));
  return { dataset, evaluation, methods, excludeSeen, pairs, notes };
}

/** The recommender under a run on other data. Throws UserError for item vectors, which nobody named. */
function recommenderElsewhere(
  gpu: Gpu,
  { folder, config }: StoredRun,
  { dataset, recommender }: NonNullable<EvaluateOptions["elsewhere"]>,
  { progress, signal }: EvaluateOptions,
): Promise<TrainedRecommender> {
  const { recommender: name } = config;
  if (!recommender && name === "vectors") {
    throw new UserError(
      `${folder} reads item vectors; name the folder of those of ${dataset.name} with --recommender`,
    );
  }
  const choice = recommender ?? { name: name as TrainedName };
  return recommenderFor(gpu, dataset, choice, { progress, signal });
}

function cannotRank(label: string, run: string | null): string {
  const whose = run === null ? "" : ` of ${run}`;
  return `The ${label}${whose} have no scores of their own: no row shows them ranking alone.`;
}

interface Row {
  readonly run: StoredRun;
  /** Otherwise than in training. */
  readonly weights?: WeightStorage;
  readonly name: string;
}

/** A row for every run, or for every run in every storage that was asked for. */
function rowsOf(runs: readonly StoredRun[], weights: readonly WeightStorage[] = []): Row[] {
  const names = rowNames(runs);
  const twice = weights.find((storage, w) => weights.indexOf(storage) !== w);
  if (twice) throw new UserError(`--weights: ${twice} is named twice; name each storage once`);
  return runs.flatMap((run, r) =>
    weights.length
      ? weights.map((storage) => ({ run, weights: storage, name: `${names[r]} (${storage})` }))
      : [{ run, name: names[r] }],
  );
}

/** Names of runs: Laser for one, else the folders' names, or their paths where two have one name. */
function rowNames(runs: readonly StoredRun[]): string[] {
  if (runs.length === 1) return ["Laser"];
  const names = runs.map(({ folder }) => basename(folder));
  const unique = new Set(names).size === names.length;
  const shown = unique ? names : runs.map(({ folder }) => folder);
  const twice = shown.find((name, r) => shown.indexOf(name) !== r);
  if (twice !== undefined) throw new UserError(`the run ${twice} is named twice; name each run once`);
  return shown;
}

function laterMinusEarlier(names: readonly string[]): RowPair[] {
  return names.flatMap((of, r) => names.slice(0, r).map((from) => ({ of, from })));
}

function requireSameData(runs: readonly StoredRun[]): void {
  const [first] = runs;
  const about = ({ info }: StoredRun) => `${info.data.name}, hash ${info.data.hash.slice(0, 12)}`;
  for (const run of runs) {
    if (run.info.data.hash === first.info.data.hash) continue;
    throw new UserError(
      `${run.folder} was trained on other data (${about(run)}) than ${first.folder} (${about(first)}); only runs on the same data can be compared`,
    );
  }
}

/** The users that all runs are evaluated on. */
function usersOf(dataset: Dataset, runs: readonly StoredRun[], asked: number | undefined): Uint32Array {
  const [{ folder, config }] = runs;
  const about = (users: number) => (users ? `${users} users` : "all users");
  const other = runs.find((run) => run.config.users !== config.users);
  if (asked === undefined && other) {
    throw new UserError(
      `${other.folder} was trained on ${about(other.config.users)}, ${folder} on ${about(config.users)}; say which to evaluate with --users N (0: all)`,
    );
  }
  return runUsers(dataset, asked ?? config.users);
}

async function fileHash(path: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(path))
    .digest("hex");
}
