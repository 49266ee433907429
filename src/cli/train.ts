import { resolve } from "node:path";
import { type Command, Option } from "commander";
import { UserError } from "../files/user-error.ts";
import { BACKBONE_NAMES, EMBEDDED } from "../llm/locate.ts";
import { describeMemory } from "../llm/memory.ts";
import { changedFile, fingerprint, loadBackbone, openBackbone } from "../train/backbone.ts";
import { MODEL } from "../train/checkpoint.ts";
import { type Config, type ConfigName, PRESETS, presetConfig } from "../train/config.ts";
import { openData, SHOP } from "../train/data-source.ts";
import { copyEncoders, openBackboneFor, originConfig } from "../train/origin.ts";
import { recommenderFor } from "../train/recommender.ts";
import { loadRecommender } from "../train/recommender-file.ts";
import {
  describeRun,
  heldRunFolder,
  newRunFolder,
  newRunInfo,
  readRun,
  refuseChanges,
  type StoredRun,
} from "../train/run-folder.ts";
import { openSession } from "../train/session.ts";
import { Interrupted, train } from "../train/trainer.ts";
import { adapterOption, openGpu } from "./adapter.ts";
import { askedFor, type ConfigFlags, withAsked } from "./asked-config.ts";
import { ablationLines, addConfigFlags } from "./flags.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { terminalProgress } from "./progress.ts";
import { namedRecommender, RECOMMENDER_HELP } from "./recommender-flag.ts";
import { checkRunMemory } from "./run-memory.ts";

interface TrainFlags extends ConfigFlags {
  readonly data?: string;
  readonly backbone?: string;
  readonly run?: string;
  readonly from?: string;
  readonly resume?: string | true;
  readonly adapter?: string;
}

/** `laser train`: both phases of Laser into a run folder, resumable at any moment. */
export function registerTrain(program: Command): void {
  const command = program
    .command("train")
    .description("train Laser: phase 1 (items encoded anew every epoch), then phase 2 (items fixed)")
    .option(
      "--data <data>",
      `${SHOP} (the embedded example), a folder made by laser data, or raw files (default: ${SHOP})`,
    )
    .option(
      "--backbone <name>",
      `${BACKBONE_NAMES.join(", ")}, or a Hugging Face model directory (default: ${EMBEDDED.name})`,
    )
    .option("--run <dir>", "the run's folder (default: runs/DATA-BACKBONE-N)")
    .addOption(
      new Option(
        "--preset <name>",
        `where the hyper-parameters start: ${Object.keys(PRESETS).join(" or ")} (default: paper)`,
      ),
    )
    .option("--config <file>", "JSON file of hyper-parameters; flags win over it, it wins over the preset")
    .option(
      "--ablation <name>",
      "a row of the paper's ablation tables, listed below; it wins over the config file",
    )
    .option(
      "--from <run>",
      "begin with the encoders, backbone and hyper-parameters of a trained run, of other data or the same (Figure 3)",
    )
    .option("--recommender <name>", RECOMMENDER_HELP)
    .option("--item-vectors <file>", "safetensors of item vectors made elsewhere, in place of a recommender")
    .option("--item-ids <file>", "ids of the rows of --item-vectors: a JSON list, or one a line")
    .option("--resume [dir]", "continue the run in this folder (or in --run) from its checkpoint")
    .addOption(adapterOption());
  addConfigFlags(command)
    .addHelpText(
      "after",
      `
Ablations (--ablation NAME stands for the fields beside it; a flag that says otherwise is refused):
${ablationLines().join("\n")}

Ctrl-C stops after the update with a checkpoint (exit code 130); a second one stops at once.

Examples:
  laser train                                              the embedded shop and backbone
  laser train --data runs/data/mine --backbone llama2 --preset authors
  laser train --data runs/data/mine --mformer-width 64 --mformer-blocks 2 --mformer-heads 4 --users 2000
  laser train --data runs/data/mine --ablation no-mformer
  laser train --from runs/pets-llama2-1 --data runs/data/mine --train-share 0.05
  laser train --resume runs/shop-embedded-1`,
    )
    .action(runTrain);
}

async function runTrain(flags: TrainFlags): Promise<void> {
  const resumed = flags.resume === undefined ? null : resumedFolder(flags);
  if (resumed !== null) await resume(resumed, flags);
  else await begin(flags);
}

function resumedFolder({ resume, run }: TrainFlags): string {
  const folder = typeof resume === "string" ? resume : run;
  if (!folder)
    throw new UserError("--resume: which run? Name its folder, as in --resume runs/shop-embedded-1");
  if (typeof resume === "string" && run && resolve(resume) !== resolve(run)) {
    throw new UserError(`--resume ${resume} and --run ${run} name two folders; give one`);
  }
  return folder;
}

async function begin(flags: TrainFlags): Promise<void> {
  const { asked, given } = await askedFor(flags);
  const origin = flags.from === undefined ? null : await readRun(flags.from);
  const config = withAsked(startOf(flags.preset, origin), asked);
  const progress = terminalProgress();
  const files = await openBackboneFor(flags.backbone, origin);
  const { dataset, source } = await openData(flags.data ?? SHOP, progress);
  await using held = await newRunFolder(flags.run, dataset.name, files.name);
  const { folder } = held;
  using gpu = await openGpu(flags.adapter);
  using interrupt = listenForInterrupt("this update");
  const { signal } = interrupt;
  const choice = given?.choice ?? namedRecommender(config.recommender);
  const trained = await recommenderFor(gpu, dataset, choice, { progress, signal });
  const info = await newRunInfo(gpu, { dataset, source }, files, trained, config, origin);
  const run: StoredRun = { folder, config, info };
  const plan = await checkRunMemory(gpu, config, dataset, files, trained.settings);
  console.error(describeMemory(plan));
  const backbone = await loadBackbone(gpu, files, config.weights, progress);
  gpu.buffers.reserve(plan.pool);
  const session = openSession({ gpu, config, dataset, recommender: trained.model, backbone });
  if (origin) await copyEncoders(origin, folder, session.laser.parameters);
  await describeRun(run, trained.folder);
  await trainRun(session, run, progress, signal);
}

/** Where the hyper-parameters start: a preset that was named, the run that this one begins from, or the paper's. */
function startOf(preset: string | undefined, origin: StoredRun | null): Config {
  return origin && preset === undefined ? originConfig(origin) : presetConfig(preset ?? "paper");
}

async function resume(folder: string, flags: TrainFlags): Promise<void> {
  const run = await readRun(folder);
  if (flags.from !== undefined)
    throw new UserError(`--from ${flags.from}: a run begins from another only once; leave it out to resume`);
  const { config, info } = run;
  const { asked, given } = await askedFor(flags);
  if (flags.preset !== undefined)
    asked.unshift({ values: presetFields(flags.preset), source: `--preset ${flags.preset}` });
  refuseChanges(run, asked);
  const progress = terminalProgress();
  const { dataset } = await openData(flags.data ?? info.data.source, progress);
  if (dataset.hash !== info.data.hash) {
    throw new UserError(
      `${flags.data ?? info.data.source} is not the data that the run ${folder} began with (hash ${dataset.hash.slice(0, 12)}, expected ${info.data.hash.slice(0, 12)}); restore it, or start a new run`,
    );
  }
  if (given && !("name" in given.choice))
    throw new UserError(
      `${flags.itemVectors ? "--item-vectors" : "--recommender"}: the run ${folder} has its own copy; leave it out to resume`,
    );
  const files = await openBackbone(flags.backbone ?? info.backbone.directory);
  const changed = changedFile(info.backbone.fingerprint, await fingerprint(files.directory));
  if (changed) {
    throw new UserError(
      `${files.directory}: ${changed} differs from the backbone that the run ${folder} began with; restore it, or start a new run`,
    );
  }
  await using _held = await heldRunFolder(folder);
  using gpu = await openGpu(flags.adapter);
  if (gpu.adapterName !== info.adapter) {
    progress.line(
      `this run began on ${info.adapter}: on another adapter its figures differ in the last digits`,
    );
  }
  using interrupt = listenForInterrupt("this update");
  const { settings } = info.recommender;
  const recommender = await loadRecommender(gpu, dataset, settings, folder);
  if (!recommender) throw new UserError(`${folder}: its recommender.safetensors is missing; start a new run`);
  const plan = await checkRunMemory(gpu, config, dataset, files, settings);
  console.error(describeMemory(plan));
  const backbone = await loadBackbone(gpu, files, config.weights, progress);
  gpu.buffers.reserve(plan.pool);
  const session = openSession({ gpu, config, dataset, recommender, backbone });
  await trainRun(session, run, progress, interrupt.signal);
}

/** The fields of a preset that it, or any other preset, sets: what resuming with --preset asks for. */
function presetFields(name: string): Partial<Config> {
  const config = presetConfig(name);
  const touched = new Set(Object.values(PRESETS).flatMap((preset) => Object.keys(preset) as ConfigName[]));
  return Object.fromEntries([...touched].map((field) => [field, config[field]]));
}

async function trainRun(
  session: ReturnType<typeof openSession>,
  { folder }: StoredRun,
  progress: ReturnType<typeof terminalProgress>,
  signal: AbortSignal,
): Promise<void> {
  console.error(`run ${folder}`);
  try {
    await train({ ...session, folder, progress, signal });
  } catch (error) {
    progress.end();
    if (error instanceof Interrupted) {
      throw new Interrupted(`${error.message}; continue with: laser train --resume ${folder}`);
    }
    throw error;
  }
  console.log(`trained: ${folder} (${MODEL}); next: laser evaluate ${folder}`);
}
