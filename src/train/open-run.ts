import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Dataset, Item } from "../data/dataset.ts";
import { openSafetensors, writeSafetensors } from "../files/safetensors.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { WeightStorage } from "../llm/weight-stream.ts";
import type { Recommender } from "../recommenders/recommender.ts";
import { changedFile, fingerprint, loadBackbone, openBackbone } from "./backbone.ts";
import { type Artifact, type Flat, loadArtifact } from "./checkpoint.ts";
import { openData } from "./data-source.ts";
import { encodeAll } from "./encode.ts";
import type { Progress } from "./progress.ts";
import { loadRecommender } from "./recommender-file.ts";
import { readRun, type StoredRun } from "./run-folder.ts";
import { openSession, type Session } from "./session.ts";

/** Items that a run was given after its training, and their rows of E. */
export interface AddedItems {
  readonly items: readonly Item[];
  /** [A, d], rows normalised. */
  readonly embeddings: Flat;
}

const ADDED = "added-items.safetensors";

/** A trained run, ready to encode histories: the user encoder's parameters are loaded. */
export interface OpenRun {
  readonly run: StoredRun;
  readonly session: Session;
  readonly artifact: Artifact;
  readonly added: AddedItems;
  /** E of the dataset's items, then of the added ones [I + A, d], on the GPU. */
  readonly embeddings: Tensor;
}

/** The dataset of a run. Throws UserError when it is gone or another one. */
export async function runDataset({ folder, info }: StoredRun, progress: Progress): Promise<Dataset> {
  const { source, hash } = info.data;
  const { dataset } = await openData(source, progress);
  if (dataset.hash !== hash) {
    throw new UserError(
      `${source}: no longer the data that the run ${folder} was trained on; restore it, or train again`,
    );
  }
  return dataset;
}

/** Data that a run was not trained on, and a recommender of that data. */
export interface Elsewhere {
  readonly dataset: Dataset;
  readonly recommender: Recommender;
}

/**
 * Opens a trained run with everything it computes with. Throws UserError when a part is missing or another than the
 * run was trained with. `weights` stores the backbone otherwise than in training; E stays what training made.
 * `elsewhere` opens it on other data, whose items its item encoder embeds now, without the items added to the run.
 */
export async function openRun(
  gpu: Gpu,
  folder: string,
  progress: Progress,
  { weights, elsewhere }: { readonly weights?: WeightStorage; readonly elsewhere?: Elsewhere } = {},
): Promise<OpenRun> {
  const stored = await readRun(folder);
  const run = weights ? { ...stored, config: { ...stored.config, weights } } : stored;
  const { config, info } = run;
  const dataset = elsewhere?.dataset ?? (await runDataset(run, progress));
  const files = await openBackbone(info.backbone.directory);
  const changed = changedFile(info.backbone.fingerprint, await fingerprint(files.directory));
  if (changed) {
    throw new UserError(
      `${files.directory}: ${changed} differs from what the run ${folder} was trained with; restore it`,
    );
  }
  const recommender =
    elsewhere?.recommender ?? (await loadRecommender(gpu, dataset, info.recommender.settings, folder));
  if (!recommender) throw new UserError(`${folder}: its recommender.safetensors is missing; train again`);
  const none: AddedItems = { items: [], embeddings: new Float32Array(0) };
  const added = elsewhere ? none : await readAdded(folder, files.config.hiddenSize);
  const backbone = await loadBackbone(gpu, { ...files, name: info.backbone.name }, config.weights, progress);
  const session = openSession({ gpu, config, dataset, recommender, backbone, added: added.items });
  const trained = await loadArtifact(folder, session.laser.parameters);
  const artifact = elsewhere ? await encodedAnew(session, trained, progress) : trained;
  const width = backbone.decoder.hiddenSize;
  if (artifact.items.length !== dataset.items.length * width) {
    throw new UserError(
      `${folder}: its item embeddings are not those of ${dataset.items.length} items; train again`,
    );
  }
  gpu.write(session.laser.parameters.values, artifact.user);
  const all = new Float32Array(artifact.items.length + added.embeddings.length);
  all.set(artifact.items);
  all.set(added.embeddings, artifact.items.length);
  return {
    run,
    session,
    artifact,
    added,
    embeddings: gpu.parameter([all.length / width, width], "f32", all),
  };
}

/** A run's encoders with E of the session's items, as the item encoder embeds them. */
async function encodedAnew(session: Session, artifact: Artifact, progress: Progress): Promise<Artifact> {
  const { gpu, laser, texts, items, config } = session;
  gpu.write(laser.parameters.values, artifact.item);
  const inputs = items.map((_, i) => texts.item(i));
  const rows = await encodeAll(gpu, laser, inputs, config.tokenBudget, progress, "encoding items");
  return { ...artifact, items: rows };
}

/** Ends everything that openRun put into GPU memory. */
export function closeRun({ session, embeddings }: OpenRun): void {
  const { gpu, recommender, backbone } = session;
  gpu.release(embeddings);
  session.release();
  recommender.release(gpu);
  backbone.decoder.release(gpu);
}

/** Reads the items that were added to a run; none when there is no such file. */
async function readAdded(folder: string, width: number): Promise<AddedItems> {
  const path = join(folder, ADDED);
  if (!existsSync(path)) return { items: [], embeddings: new Float32Array(0) };
  await using file = await openSafetensors(path);
  const items = JSON.parse(file.metadata.get("items") ?? "null") as Item[] | null;
  const shape = file.tensors.get("E")?.shape;
  if (!items || shape?.[0] !== items.length || shape[1] !== width) {
    throw new UserError(`${path}: not the added items of this run; remove it and add them again`);
  }
  return { items, embeddings: (await file.float32("E")) as Flat };
}

/** Replaces the run's added items, atomically: texts and embeddings are one file. */
export async function writeAdded(folder: string, { items, embeddings }: AddedItems): Promise<void> {
  const shape = [items.length, embeddings.length / items.length];
  const tensor = { name: "E", dtype: "F32" as const, shape, data: embeddings };
  await writeSafetensors(join(folder, ADDED), [tensor], { items: JSON.stringify(items) });
}
