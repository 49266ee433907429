/**
 * Several runs over the same parts: data opened, recommender trained and backbone loaded once, then one Laser after
 * another, each an ordinary run folder. The demo and the ablation table are such jobs.
 */
import { mkdir } from "node:fs/promises";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { type Backbone, changedFile } from "./backbone.ts";
import { isFinished, loadArtifact } from "./checkpoint.ts";
import type { Config, ConfigName } from "./config.ts";
import type { OpenedData } from "./data-source.ts";
import { copyEncoders } from "./origin.ts";
import type { Progress } from "./progress.ts";
import type { TrainedRecommender } from "./recommender.ts";
import {
  describeRun,
  heldRunFolder,
  newRunInfo,
  type RunInfo,
  readRun,
  runExists,
  type StoredRun,
} from "./run-folder.ts";
import { openSession, type Session } from "./session.ts";
import { train } from "./trainer.ts";

/** What the runs of a job share. */
export interface Job {
  readonly gpu: Gpu;
  readonly data: OpenedData;
  readonly recommender: TrainedRecommender;
  readonly backbone: Backbone;
  readonly progress: Progress;
  /** The run whose encoders every run of the job begins with; without it they begin from their seeds. */
  readonly origin?: StoredRun | null;
  /** Aborting stops the run that is being trained after its current update, with a checkpoint. */
  readonly signal?: AbortSignal;
}

/** A trained run, ready to encode histories: the user encoder's parameters are loaded. */
export interface JobRun extends Disposable {
  readonly session: Session;
  /** E of the dataset's items [I, d], on the GPU. */
  readonly embeddings: Tensor;
}

/**
 * Trains a run of a job into `folder`; a run that is there already goes on from its checkpoint, and a finished one is
 * loaded. Throws UserError when the folder holds a run of another configuration, data or backbone, and Interrupted when
 * the signal stopped it. Disposing ends Laser's parameters and E; the job's parts stay.
 */
export async function runOf(job: Job, folder: string, config: Config): Promise<JobRun> {
  const { gpu, data, recommender, backbone, progress, origin, signal } = job;
  await mkdir(folder, { recursive: true });
  await using _held = await heldRunFolder(folder);
  const info = await infoOf(job, config);
  const exists = await runExists(folder);
  if (exists) await refuseOther(folder, config, info);
  const parts = { gpu, config, dataset: data.dataset, recommender: recommender.model, backbone };
  const session = openSession(parts);
  try {
    const { parameters } = session.laser;
    if (!exists) {
      if (origin) await copyEncoders(origin, folder, parameters);
      await describeRun({ folder, config, info }, recommender.folder);
    }
    const finished = await isFinished(folder);
    const artifact = finished
      ? await loadArtifact(folder, parameters)
      : await train({ ...session, folder, progress, signal });
    if (finished) gpu.write(parameters.values, artifact.user);
    const shape = [data.dataset.items.length, backbone.decoder.hiddenSize];
    const embeddings = gpu.parameter(shape, "f32", artifact.items);
    return {
      session,
      embeddings,
      [Symbol.dispose]: () => {
        gpu.release(embeddings);
        session.release();
      },
    };
  } catch (error) {
    session.release();
    throw error;
  }
}

/** Whether a run of a job has been trained to its end. Throws UserError as `runOf` does. */
export async function hasFinished(job: Job, folder: string, config: Config): Promise<boolean> {
  if (!(await runExists(folder))) return false;
  await refuseOther(folder, config, await infoOf(job, config));
  return isFinished(folder);
}

function infoOf({ gpu, data, backbone, recommender, origin }: Job, config: Config): Promise<RunInfo> {
  return newRunInfo(gpu, data, backbone, recommender, config, origin);
}

/** Throws UserError when the run in `folder` is not the one described. */
async function refuseOther(folder: string, config: Config, info: RunInfo): Promise<void> {
  const run = await readRun(folder);
  for (const name of Object.keys(config) as ConfigName[]) {
    if (run.config[name] === config[name]) continue;
    throw new UserError(
      `${folder} holds a run whose ${name} is ${run.config[name]}, not ${config[name]}; choose another folder, or remove it`,
    );
  }
  const { data, backbone, recommender, from } = run.info;
  const other =
    data.hash !== info.data.hash
      ? "other data"
      : changedFile(backbone.fingerprint, info.backbone.fingerprint) !== null
        ? "another backbone"
        : JSON.stringify(recommender.settings) !== JSON.stringify(info.recommender.settings)
          ? "another recommender"
          : from !== info.from
            ? "another origin"
            : null;
  if (other) throw new UserError(`${folder} holds a run with ${other}; choose another folder, or remove it`);
}
