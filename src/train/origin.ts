/**
 * A run that begins where another ended, on its data or on others (Figure 3: trained on one dataset, then zero-shot or
 * with a share of the data on another). It starts with the other's encoders, of which it keeps a copy in its folder.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Parameters } from "../autograd/parameters.ts";
import { UserError } from "../files/user-error.ts";
import { EMBEDDED } from "../llm/locate.ts";
import { type BackboneFiles, changedFile, fingerprint, openBackbone } from "./backbone.ts";
import { type Encoders, loadArtifact, loadEncoders, saveEncoders } from "./checkpoint.ts";
import { type Config, defaultConfig } from "./config.ts";
import type { StoredRun } from "./run-folder.ts";

const INITIAL = "initial.safetensors";

/**
 * The hyper-parameters with which a run from `origin` starts: the origin's own, but for the parts of the data that it
 * was trained on.
 */
export function originConfig({ config }: StoredRun): Config {
  const { users, trainShare } = defaultConfig();
  return { ...config, users, trainShare };
}

/**
 * The backbone of a new run: the one named, or without a name the origin's, or the embedded one. Throws UserError when it
 * is not the one that the origin was trained on.
 */
export async function openBackboneFor(
  named: string | undefined,
  origin: StoredRun | null,
): Promise<BackboneFiles> {
  if (!origin) return openBackbone(named ?? EMBEDDED.name);
  const { name, directory, fingerprint: trained } = origin.info.backbone;
  const files =
    named === undefined ? { ...(await openBackbone(directory)), name } : await openBackbone(named);
  const changed = changedFile(trained, await fingerprint(files.directory));
  if (changed === null) return files;
  throw new UserError(
    `${files.directory}: ${changed} differs from the backbone of ${origin.folder}; a run from it needs the same`,
  );
}

/** Copies the origin's encoders into a new run's folder. Throws UserError when they do not fit its parameters. */
export async function copyEncoders(origin: StoredRun, folder: string, parameters: Parameters): Promise<void> {
  await saveEncoders(join(folder, INITIAL), parameters, await loadArtifact(origin.folder, parameters));
}

/** The encoders that a run begins with; null when it begins from its seed. */
export async function initialEncoders(folder: string, parameters: Parameters): Promise<Encoders | null> {
  const path = join(folder, INITIAL);
  return existsSync(path) ? loadEncoders(path, parameters) : null;
}
