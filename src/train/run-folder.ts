/**
 * A run's folder: config.json (the resolved configuration), run.json (what it was computed from and with),
 * recommender.safetensors (a copy of the frozen recommender, so that the folder stands by itself), the encoders that it
 * began with where they are another run's (origin.ts), checkpoint, metrics.jsonl and model.safetensors.
 */
import { copyFile, mkdir, readdir, readFile, rename, rmdir, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { fileError, removePartialFiles, writeFileAtomic } from "../files/atomic.ts";
import { readJsonObject } from "../files/json.ts";
import { type FolderLock, lockFolder } from "../files/lock.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import { type BackboneFiles, type Fingerprint, fingerprint } from "./backbone.ts";
import { CHECKPOINT } from "./checkpoint.ts";
import { type Config, type ConfigName, checkConfig, defaultConfig, overlay } from "./config.ts";
import { folderName, type OpenedData, RUNS } from "./data-source.ts";
import { RECOMMENDER_FILE } from "./recommender-file.ts";
import type { RecommenderSettings } from "./recommender-settings.ts";
import { versions } from "./versions.ts";

const CONFIG = "config.json";
const INFO = "run.json";
const LOCK = "lock.json";
const VERSION = 1;

/** What run.json holds. */
export interface RunInfo {
  readonly format: "laser run";
  readonly version: number;
  readonly data: { readonly name: string; readonly hash: string; readonly source: string };
  readonly backbone: { readonly name: string; readonly directory: string; readonly fingerprint: Fingerprint };
  /** Where the recommender was pretrained, and with which settings; the run keeps its own copy. */
  readonly recommender: { readonly folder: string; readonly settings: RecommenderSettings };
  /** The run whose encoders this one began with; absent when it began from its seed. */
  readonly from?: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly adapter: string;
  /** Dawn toggles that change how kernels run. */
  readonly toggles: readonly string[];
  readonly seed: number;
  readonly started: string;
}

/** A run as its folder describes it. */
export interface StoredRun {
  readonly folder: string;
  readonly config: Config;
  readonly info: RunInfo;
}

/** The description of a run that begins now. */
export async function newRunInfo(
  gpu: Gpu,
  { dataset, source }: OpenedData,
  backbone: BackboneFiles,
  recommender: { readonly folder: string; readonly settings: RecommenderSettings },
  config: Config,
  origin: StoredRun | null = null,
): Promise<RunInfo> {
  const { name, directory } = backbone;
  if (config.recommender !== recommender.settings.recommender) {
    throw new Error(
      `a run with ${recommender.settings.recommender} whose config says recommender ${config.recommender}`,
    );
  }
  return {
    format: "laser run",
    version: VERSION,
    data: { name: dataset.name, hash: dataset.hash, source },
    backbone: { name, directory, fingerprint: await fingerprint(directory) },
    recommender: { folder: resolve(recommender.folder), settings: recommender.settings },
    ...(origin ? { from: resolve(origin.folder) } : {}),
    versions: versions(),
    adapter: gpu.adapterName,
    toggles:
      process.env.LASER_FAST === "1"
        ? ["skip_validation", "disable_robustness", "disable_workgroup_init"]
        : [],
    seed: config.seed,
    started: new Date().toISOString(),
  };
}

/** Whether a folder holds a run. */
export function runExists(folder: string): Promise<boolean> {
  return stat(join(folder, INFO)).then(
    () => true,
    () => false,
  );
}

/** Reads a run's description. Throws UserError naming the file and field. */
export async function readRun(folder: string): Promise<StoredRun> {
  const path = join(folder, INFO);
  if (!(await runExists(folder)))
    throw new UserError(
      `${folder} is not the folder of a run (it has no ${INFO}); make one with: laser train`,
    );
  const info = (await readJsonObject(path)) as unknown as RunInfo;
  if (info.format !== "laser run" || info.version !== VERSION) {
    throw new UserError(`${path}: not the description of a run of version ${VERSION}; train again`);
  }
  for (const [part, fields] of Object.entries({
    data: ["hash", "source"],
    backbone: ["directory", "fingerprint"],
    recommender: ["settings"],
  })) {
    const value = info[part as keyof RunInfo] as unknown as Record<string, unknown> | undefined;
    for (const field of fields) {
      if (value?.[field] === undefined)
        throw new UserError(`${path}: field ${part}.${field} is missing; train again`);
    }
  }
  const configPath = join(folder, CONFIG);
  const config = checkConfig(
    overlay(defaultConfig(), await readJsonObject(configPath), configPath),
    configPath,
  );
  return { folder, config, info };
}

/** Writes config.json and run.json, and copies the recommender. The order makes run.json mean that all is there. */
export async function describeRun(run: StoredRun, recommenderFolder: string): Promise<void> {
  const { folder, config, info } = run;
  const copy = join(folder, RECOMMENDER_FILE);
  try {
    await copyFile(join(recommenderFolder, RECOMMENDER_FILE), `${copy}.part`);
    await rename(`${copy}.part`, copy);
  } catch (error) {
    throw fileError("write", copy, error);
  }
  await writeFileAtomic(join(folder, CONFIG), `${JSON.stringify(config, null, 2)}\n`);
  await writeFileAtomic(join(folder, INFO), `${JSON.stringify(info, null, 2)}\n`);
}

/** A run folder that this process holds. */
export interface HeldFolder extends AsyncDisposable {
  readonly folder: string;
}

/**
 * Makes and locks the folder of a new run: `wanted`, or runs/DATA-BACKBONE-N with the first free N. Throws UserError
 * when it is in use or holds anything. On disposal the lock ends, and a folder that stayed empty goes.
 */
export async function newRunFolder(
  wanted: string | undefined,
  data: string,
  backbone: string,
): Promise<HeldFolder> {
  const folder = wanted ?? (await freeFolder(`${folderName(data)}-${folderName(backbone)}`));
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw fileError("make the folder", folder, error);
  }
  const held = hold(folder);
  const names = (await readdir(folder)).filter((name) => name !== LOCK);
  if (names.length > 0) {
    await held[Symbol.asyncDispose]();
    const isRun = names.includes(INFO);
    throw new UserError(
      `${folder} already holds ${isRun ? "a run" : `files (${names[0]})`}; ${isRun ? "continue it with --resume, or " : ""}choose another folder with --run`,
    );
  }
  return held;
}

/** Locks the folder of a run that is to go on. */
export async function heldRunFolder(folder: string): Promise<HeldFolder> {
  const held = hold(folder);
  await removePartialFiles(folder);
  return held;
}

function hold(folder: string): HeldFolder {
  const lock: FolderLock = lockFolder(folder);
  return {
    folder,
    [Symbol.asyncDispose]: async () => {
      lock.release();
      // Nothing was written: the run failed before it began. A folder with anything in it stays.
      await rmdir(folder).catch(() => {});
    },
  };
}

async function freeFolder(name: string): Promise<string> {
  await mkdir(RUNS, { recursive: true }).catch((error) => {
    throw fileError("make the folder", RUNS, error);
  });
  for (let n = 1; ; n++) {
    const folder = join(RUNS, `${name}-${n}`);
    try {
      // Not recursive: of two processes only one makes it.
      await mkdir(folder);
      return folder;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST")
        throw fileError("make the folder", folder, error);
    }
  }
}

/** The run that was started last under runs/. Throws UserError when there is none. */
export async function latestRun(): Promise<string> {
  let latest: { folder: string; started: string } | null = null;
  for (const name of await readdir(RUNS).catch(() => [] as string[])) {
    const folder = join(RUNS, name);
    const text = await readFile(join(folder, INFO), "utf8").catch(() => null);
    if (text === null) continue;
    try {
      const { started } = JSON.parse(text) as RunInfo;
      if (!latest || started > latest.started) latest = { folder, started };
    } catch {
      // A damaged run is reported when it is named.
    }
  }
  if (!latest)
    throw new UserError(`no run under ${resolve(RUNS)}; make one with: laser train, or name its folder`);
  return latest.folder;
}

/** Whether a run has been checkpointed. */
export async function hasCheckpoint(folder: string): Promise<boolean> {
  return stat(join(folder, CHECKPOINT)).then(
    () => true,
    () => false,
  );
}

/** Throws UserError naming the first field in which what was asked for contradicts a stored run. */
export function refuseChanges(
  run: StoredRun,
  asked: readonly { values: Partial<Config>; source: string }[],
): void {
  for (const { values, source } of asked) {
    for (const name of Object.keys(values) as ConfigName[]) {
      if (values[name] === run.config[name]) continue;
      throw new UserError(
        `${source}: ${name} is ${JSON.stringify(values[name])}, but the run ${basename(run.folder)} began with ${JSON.stringify(run.config[name])}; leave it out to resume, or start a new run`,
      );
    }
  }
}
