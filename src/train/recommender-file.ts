/** A trained recommender as a folder holds it: recommender.safetensors, its weights under their names. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Dataset, trainingCounts } from "../data/dataset.ts";
import { openSafetensors, type SafetensorsFile, writeSafetensors } from "../files/safetensors.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import { Bert4Rec } from "../recommenders/bert4rec.ts";
import { ItemVectors } from "../recommenders/item-vectors.ts";
import type { Recommender, TrainableRecommender } from "../recommenders/recommender.ts";
import { SasRec } from "../recommenders/sasrec.ts";
import type { Flat } from "./checkpoint.ts";
import type { PretrainSettings, RecommenderSettings, VectorSettings } from "./recommender-settings.ts";

export const RECOMMENDER_FILE = "recommender.safetensors";

/** Item vectors in that file: the dataset's items in its order, then the unknown one. */
const VECTORS = "vectors.weight";

/** A recommender of these sizes; its parameters are declared and not built. */
export function declareRecommender(items: number, settings: PretrainSettings): TrainableRecommender {
  const { width, heads, blocks, maxLength, dropout } = settings;
  const sizes = { items, width, heads, blocks, maxLength, dropout };
  return settings.recommender === "bert4rec" ? new Bert4Rec(sizes) : new SasRec(sizes);
}

/** An untrained recommender for a dataset; items that training never shows are unknown to it. */
export function buildRecommender(
  gpu: Gpu,
  dataset: Dataset,
  settings: PretrainSettings,
): TrainableRecommender {
  const model = declareRecommender(dataset.items.length, settings);
  model.parameters.build(gpu, settings.seed);
  model.setKnown(trainingCounts(dataset));
  return model;
}

/** The longest history that a recommender reads. */
export function recommenderPositions(settings: RecommenderSettings): number {
  return settings.recommender === "vectors" ? Number.POSITIVE_INFINITY : settings.maxLength;
}

/** A recommender of these sizes in GPU memory without its values, for an account of memory (train/memory.ts). */
export function unbuiltRecommender(gpu: Gpu, items: number, settings: RecommenderSettings): Recommender {
  if (settings.recommender === "vectors") {
    const { width } = settings;
    return new ItemVectors(gpu, items, width, new Float32Array((items + 1) * width));
  }
  const model = declareRecommender(items, settings);
  model.parameters.allocate(gpu);
  return model;
}

/** Opens the recommender of a dataset in a folder; null when there is none yet. Throws UserError for another one. */
async function openOwn(
  dataset: Dataset,
  { recommender }: RecommenderSettings,
  folder: string,
): Promise<SafetensorsFile | null> {
  const path = join(folder, RECOMMENDER_FILE);
  if (!existsSync(path)) return null;
  const file = await openSafetensors(path);
  const kind = file.metadata.get("kind");
  if (file.metadata.get("data") === dataset.hash && kind === recommender) return file;
  await file.close();
  const what =
    kind === recommender ? "it is of other data" : `it is ${kind ?? "unnamed"}, not ${recommender}`;
  throw new UserError(`${path}: ${what}; remove the folder and run laser pretrain again`);
}

/**
 * Loads the trained recommender of a dataset from a folder, or returns null when there is none yet. Throws UserError
 * when it is of other data, or its tensors do not fit the settings.
 */
export async function loadTrained(
  gpu: Gpu,
  dataset: Dataset,
  settings: PretrainSettings,
  folder: string,
): Promise<TrainableRecommender | null> {
  await using file = await openOwn(dataset, settings, folder);
  if (!file) return null;
  const model = buildRecommender(gpu, dataset, settings);
  const tensors = new Map<string, { shape: readonly number[]; data: Float32Array }>();
  for (const [name, { shape }] of file.tensors) tensors.set(name, { shape, data: await file.float32(name) });
  gpu.write(
    model.parameters.values,
    model.parameters.join((name) => tensors.get(name), file.path),
  );
  return model;
}

/** As loadTrained, for any recommender that a run may have. */
export async function loadRecommender(
  gpu: Gpu,
  dataset: Dataset,
  settings: RecommenderSettings,
  folder: string,
): Promise<Recommender | null> {
  if (settings.recommender !== "vectors") return loadTrained(gpu, dataset, settings, folder);
  await using file = await openOwn(dataset, settings, folder);
  if (!file) return null;
  const { width } = settings;
  const items = dataset.items.length;
  const expected = `${items + 1},${width}`;
  const { shape } = file.info(VECTORS);
  if (shape.join() !== expected) {
    throw new UserError(
      `${file.path}: tensor ${VECTORS} has shape [${shape}], expected [${expected}]; train again`,
    );
  }
  return new ItemVectors(gpu, items, width, (await file.float32(VECTORS)) as Flat);
}

/** Writes the vectors of a dataset's items, and of an unknown one, into a folder. */
export async function saveVectors(
  rows: Flat,
  dataset: Dataset,
  { width }: VectorSettings,
  folder: string,
): Promise<void> {
  const tensor = { name: VECTORS, dtype: "F32" as const, shape: [rows.length / width, width], data: rows };
  await writeSafetensors(join(folder, RECOMMENDER_FILE), [tensor], { data: dataset.hash, kind: "vectors" });
}

/** Writes the trained recommender of a dataset into a folder. */
export async function saveTrained(
  gpu: Gpu,
  model: TrainableRecommender,
  dataset: Dataset,
  settings: PretrainSettings,
  folder: string,
): Promise<void> {
  const values = (await gpu.read(model.parameters.values)) as Flat;
  const tensors = [...model.parameters.split(values)].map(([name, { shape, data }]) => ({
    name,
    dtype: "F32" as const,
    shape,
    data,
  }));
  const metadata = { data: dataset.hash, kind: settings.recommender };
  await writeSafetensors(join(folder, RECOMMENDER_FILE), tensors, metadata);
}
