import { existsSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Dataset } from "../data/dataset.ts";
import { fileError, writeFileAtomic } from "../files/atomic.ts";
import { readJsonObject } from "../files/json.ts";
import { lockFolder } from "../files/lock.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Bert4Rec } from "../recommenders/bert4rec.ts";
import { loadRecommender, PRETRAIN, type PretrainSettings, pretrain, recommenderFolder } from "./pretrain.ts";
import type { Progress } from "./progress.ts";
import { Interrupted } from "./trainer.ts";

/** Where recommenders are kept by the hash of their data. */
export const RECOMMENDERS = join("runs", "recommenders");

const SETTINGS = "settings.json";

/** A trained recommender and where it lies. */
export interface TrainedRecommender {
  readonly model: Bert4Rec;
  readonly folder: string;
  readonly settings: PretrainSettings;
  /** True when nothing had to be trained. */
  readonly cached: boolean;
}

/** The settings that a recommender's folder was trained with. Throws UserError. */
export async function recommenderSettings(folder: string): Promise<PretrainSettings> {
  const path = join(folder, SETTINGS);
  if (!existsSync(path)) {
    throw new UserError(
      `${folder} holds no recommender (${SETTINGS} is missing); make one with: laser pretrain --out ${folder}`,
    );
  }
  const stored = await readJsonObject(path);
  const settings = { ...PRETRAIN } as Record<string, number>;
  for (const name of Object.keys(PRETRAIN)) {
    const value = stored[name];
    if (typeof value !== "number" || !Number.isFinite(value)) {
      throw new UserError(
        `${path}: field ${name} is ${JSON.stringify(value)}, expected a number; run laser pretrain again`,
      );
    }
    settings[name] = value;
  }
  return settings as unknown as PretrainSettings;
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
  if (!fresh && sameSettings(settings, await storedSettings(folder))) {
    const model = await loadRecommender(gpu, dataset, settings, folder);
    if (model) return { model, folder, settings, cached: true };
  }
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw fileError("make the folder", folder, error);
  }
  using _lock = lockFolder(folder);
  const stored = await storedSettings(folder);
  // A half-trained state of other settings, or one that is not wanted, must not be resumed.
  if (fresh || !sameSettings(settings, stored)) await removeTraining(folder);
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

/**
 * The recommender that a run is to use: the one in `folder`, or the cached one of the data's hash whatever settings
 * it was trained with, or one trained now with the defaults.
 */
export async function recommenderFor(
  gpu: Gpu,
  dataset: Dataset,
  options: { readonly progress: Progress; readonly folder?: string; readonly signal?: AbortSignal },
): Promise<TrainedRecommender> {
  const { folder, progress, signal } = options;
  const home = folder ?? recommenderFolder(RECOMMENDERS, dataset, PRETRAIN);
  if (folder !== undefined || existsSync(join(home, SETTINGS))) {
    const settings = await recommenderSettings(home);
    const model = await loadRecommender(gpu, dataset, settings, home);
    if (model) return { model, folder: home, settings, cached: true };
    if (folder !== undefined) {
      throw new UserError(
        `${folder}: its recommender is not trained to the end; run laser pretrain --out ${folder} again`,
      );
    }
  }
  progress.line("the ID recommender of this data is not trained yet: training it first");
  return trainedRecommender(gpu, dataset, PRETRAIN, { progress, signal });
}

async function storedSettings(folder: string): Promise<PretrainSettings | null> {
  return existsSync(join(folder, SETTINGS)) ? recommenderSettings(folder) : null;
}

/** Whether what lies in a folder was trained with these settings. Settings that only end a training are compared too. */
function sameSettings(settings: PretrainSettings, stored: PretrainSettings | null): boolean {
  if (!stored) return false;
  return (Object.keys(settings) as (keyof PretrainSettings)[]).every(
    (name) => settings[name] === stored[name],
  );
}

async function removeTraining(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (name.endsWith(".safetensors") || name === SETTINGS) await rm(join(folder, name), { force: true });
  }
}
