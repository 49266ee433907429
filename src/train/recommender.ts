/** Where recommenders are kept, and which one a run is to use. */
import { existsSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Dataset } from "../data/dataset.ts";
import { fileError, writeFileAtomic } from "../files/atomic.ts";
import { readJsonObject } from "../files/json.ts";
import { lockFolder } from "../files/lock.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import { ItemVectors } from "../recommenders/item-vectors.ts";
import type { Recommender } from "../recommenders/recommender.ts";
import { RUNS } from "./data-source.ts";
import { readItemVectors } from "./item-vectors.ts";
import { pretrain } from "./pretrain.ts";
import { PRETRAIN_STATE } from "./pretrain-state.ts";
import type { Progress } from "./progress.ts";
import { loadRecommender, RECOMMENDER_FILE, saveVectors } from "./recommender-file.ts";
import {
  PRETRAIN,
  type PretrainSettings,
  type RecommenderSettings,
  sameSettings,
  storedSettings,
  type TrainedName,
} from "./recommender-settings.ts";
import { Interrupted } from "./trainer.ts";

/** Where recommenders are kept by the hash of their data. */
export const RECOMMENDERS = join(RUNS, "recommenders");

const SETTINGS = "settings.json";

/** A trained recommender and where it lies. */
export interface TrainedRecommender {
  readonly model: Recommender;
  readonly folder: string;
  readonly settings: RecommenderSettings;
  /** True when nothing had to be trained. */
  readonly cached: boolean;
}

/** Where the recommender of a dataset is kept inside a cache folder: by recommender, data and shape. */
export function recommenderFolder(cache: string, dataset: Dataset, settings: PretrainSettings): string {
  const { recommender, width, heads, blocks, maxLength, seed } = settings;
  const name =
    settings.recommender === "sasrec" && settings.loss === "binary" ? "sasrec-binary" : recommender;
  return join(
    cache,
    `${name}-${dataset.hash.slice(0, 16)}-${width}-${heads}-${blocks}-${maxLength}-seed${seed}`,
  );
}

/** The settings that a recommender's folder was trained with. Throws UserError. */
export async function recommenderSettings(folder: string): Promise<RecommenderSettings> {
  const path = join(folder, SETTINGS);
  if (!existsSync(path)) {
    throw new UserError(
      `${folder} holds no recommender (${SETTINGS} is missing); make one with: laser pretrain --out ${folder}`,
    );
  }
  return storedSettings(await readJsonObject(path), path);
}

/**
 * The recommender of a dataset: from the cache (or `folder`) when it has been trained with these settings, trained
 * now otherwise. Throws UserError, and Interrupted when the signal stopped the training (it resumes).
 */
export async function trainedRecommender(
  gpu: Gpu,
  dataset: Dataset,
  settings: PretrainSettings,
  options: {
    readonly progress: Progress;
    readonly folder?: string;
    readonly fresh?: boolean;
    readonly signal?: AbortSignal;
  },
): Promise<TrainedRecommender> {
  const { progress, fresh = false, signal } = options;
  const folder = options.folder ?? recommenderFolder(RECOMMENDERS, dataset, settings);
  if (!fresh && (await wasTrainedWith(settings, folder))) {
    const model = await loadRecommender(gpu, dataset, settings, folder);
    if (model) return { model, folder, settings, cached: true };
  }
  await makeFolder(folder);
  using _lock = lockFolder(folder);
  // A half-trained state of other settings, or one that is not wanted, must not be resumed.
  if (fresh || !(await wasTrainedWith(settings, folder))) await removeTraining(folder);
  await writeFileAtomic(join(folder, SETTINGS), `${JSON.stringify(settings, null, 2)}\n`);
  const { model, interrupted } = await pretrain(gpu, dataset, settings, folder, progress, signal);
  if (interrupted) {
    model.release(gpu);
    throw new Interrupted(
      `interrupted; the recommender's training goes on when the same command runs again (${folder})`,
    );
  }
  return { model, folder, settings, cached: false };
}

/** Which recommender a run is to use: one by its name, one in a folder, or item vectors made elsewhere. */
export type RecommenderChoice =
  | { readonly name: TrainedName }
  | { readonly folder: string }
  | { readonly vectors: string; readonly ids?: string };

/**
 * The recommender that a run is to use. By name: the cached one of the data's hash, whatever else it was trained with,
 * or one trained now with the defaults. Throws UserError, and Interrupted when the signal stopped its training.
 */
export async function recommenderFor(
  gpu: Gpu,
  dataset: Dataset,
  choice: RecommenderChoice,
  options: { readonly progress: Progress; readonly signal?: AbortSignal },
): Promise<TrainedRecommender> {
  if ("vectors" in choice) return importedVectors(gpu, dataset, choice, options.progress);
  if ("folder" in choice) {
    const { folder } = choice;
    const settings = await recommenderSettings(folder);
    const model = await loadRecommender(gpu, dataset, settings, folder);
    if (model) return { model, folder, settings, cached: true };
    throw new UserError(
      `${folder}: its recommender is not trained to the end; run laser pretrain --out ${folder} again`,
    );
  }
  const defaults = PRETRAIN[choice.name];
  const folder = recommenderFolder(RECOMMENDERS, dataset, defaults);
  if (existsSync(join(folder, SETTINGS))) {
    const settings = await recommenderSettings(folder);
    const model = await loadRecommender(gpu, dataset, settings, folder);
    if (model) return { model, folder, settings, cached: true };
  }
  options.progress.line(
    `the ID recommender ${choice.name} of this data is not trained yet: training it first`,
  );
  return trainedRecommender(gpu, dataset, defaults, options);
}

/** Matches item vectors to the data, and keeps them as a recommender's folder. */
async function importedVectors(
  gpu: Gpu,
  dataset: Dataset,
  choice: { readonly vectors: string; readonly ids?: string },
  progress: Progress,
): Promise<TrainedRecommender> {
  const { settings, rows } = await readItemVectors(choice.vectors, choice.ids, dataset);
  const { width, matched, sha256 } = settings;
  const items = dataset.items.length;
  progress.line(
    `${choice.vectors}: vectors of ${width} numbers for ${matched} of the ${items} items${matched < items ? "; the others are read as unknown" : ""}`,
  );
  const folder = join(RECOMMENDERS, `vectors-${dataset.hash.slice(0, 16)}-${sha256.slice(0, 16)}`);
  const cached = await wasTrainedWith(settings, folder);
  if (!cached) {
    await makeFolder(folder);
    using _lock = lockFolder(folder);
    await saveVectors(rows, dataset, settings, folder);
    await writeFileAtomic(join(folder, SETTINGS), `${JSON.stringify(settings, null, 2)}\n`);
  }
  return { model: new ItemVectors(gpu, items, width, rows), folder, settings, cached };
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw fileError("make the folder", folder, error);
  }
}

/** Whether what lies in a folder has these settings; settings that cannot be read are others. */
async function wasTrainedWith(settings: RecommenderSettings, folder: string): Promise<boolean> {
  const stored = await recommenderSettings(folder).catch((error: unknown) => {
    if (error instanceof UserError) return null;
    throw error;
  });
  return stored !== null && sameSettings(settings, stored);
}

/** Removes what a training has written, and nothing else: the folder may be anyone's. */
async function removeTraining(folder: string): Promise<void> {
  for (const name of [RECOMMENDER_FILE, PRETRAIN_STATE, SETTINGS])
    await rm(join(folder, name), { force: true });
}
