import { type Command, Option } from "commander";
import { UserError } from "../files/user-error.ts";
import { type AdapterTraits, ANY_GPU } from "../gpu/counting-device.ts";
import { addedTokens } from "../laser/laser.ts";
import { parseDecoderConfig, readDecoderConfig } from "../llm/config.ts";
import type { DecoderConfig } from "../llm/decoder-config.ts";
import { sourceTensors, weightSources } from "../llm/decoder-weights.ts";
import { decoderBytes } from "../llm/load.ts";
import { BACKBONE_NAMES, EMBEDDED, findBackbone } from "../llm/locate.ts";
import { checkMemory, type MemoryPlan, size, totalBytes } from "../llm/memory.ts";
import { PUBLISHED } from "../llm/published.ts";
import { loadTokenizer } from "../llm/tokenizer.ts";
import { WEIGHT_STORAGES } from "../llm/weight-stream.ts";
import { type Config, PRESETS, presetConfig } from "../train/config.ts";
import { openData } from "../train/data-source.ts";
import { encodingStep, planMemory, sampledSizes, type TextSize, type Workload } from "../train/memory.ts";
import { recommenderSettings } from "../train/recommender.ts";
import { recommenderPositions } from "../train/recommender-file.ts";
import { PRETRAIN, type RecommenderSettings } from "../train/recommender-settings.ts";
import { runTexts } from "../train/session.ts";
import { adapterOption, openGpu } from "./adapter.ts";
import { askedFor, type ConfigFlags, withAsked } from "./asked-config.ts";
import { addConfigFlags, wholeNumber } from "./flags.ts";
import { terminalProgress } from "./progress.ts";
import { namedRecommender, RECOMMENDER_HELP } from "./recommender-flag.ts";

interface PlanFlags extends ConfigFlags {
  readonly backbone?: string;
  readonly data?: string;
  readonly tokens?: number;
  readonly itemTokens?: number;
  readonly items?: number;
  readonly adapter?: string;
}

/** Texts of an ordinary catalogue: ten items after the paper's instruction, one item after it. */
const TOKENS = 400;
const ITEM_TOKENS = 80;
const ITEMS = 10_000;

/** `laser plan`: the GPU memory that training needs, from a config.json or a name alone. */
export function registerPlan(program: Command): void {
  const command = program
    .command("plan")
    .description("print the GPU memory that training needs, part by part, without loading any weights")
    .option(
      "--backbone <name>",
      `${BACKBONE_NAMES.join(", ")}, or a directory with a config.json (default: ${EMBEDDED.name})`,
    )
    .option(
      "--data <data>",
      "take the texts' lengths and the items from this data, as laser train does (needs the backbone's tokenizer)",
    )
    .option(
      "--tokens <n>",
      `tokens of the longest text, without prefix and suffix (default: ${TOKENS})`,
      wholeNumber("--tokens", 1),
    )
    .option(
      "--item-tokens <n>",
      `tokens of an item's text, as they are encoded (default: ${ITEM_TOKENS})`,
      wholeNumber("--item-tokens", 1),
    )
    .option("--items <n>", `items (default: ${ITEMS})`, wholeNumber("--items", 1))
    .addOption(
      new Option(
        "--preset <name>",
        `where the hyper-parameters start: ${Object.keys(PRESETS).join(" or ")} (default: paper)`,
      ),
    )
    .option("--config <file>", "JSON file of hyper-parameters; flags win over it, it wins over the preset")
    .option("--ablation <name>", "a row of the paper's ablation tables (laser train --help lists them)")
    .option("--recommender <name>", RECOMMENDER_HELP)
    .addOption(adapterOption());
  addConfigFlags(command)
    .addHelpText(
      "after",
      `
One step of training and one of encoding are recorded by the code that trains, on a GPU that only counts: the sum is what
such a run holds, to the byte. With --adapter they are planned for that adapter and its limits, else for any GPU.

Examples:
  laser plan --backbone llama2
  laser plan --backbone gpt2-xl --batch-size 16 --tokens 300 --ablation no-mformer
  laser plan --backbone models/my-llama --data runs/data/mine --weights int4 --adapter gpu`,
    )
    .action(runPlan);
}

async function runPlan(flags: PlanFlags): Promise<void> {
  const { asked, given } = await askedFor(flags);
  const config = withAsked(presetConfig(flags.preset ?? "paper"), asked);
  const choice = given?.choice ?? namedRecommender(config.recommender);
  const recommender = await settingsOf(choice);
  const name = flags.backbone ?? EMBEDDED.name;
  const { backbone, directory } = await configOf(name);
  const texts = flags.data
    ? await fromData(flags, flags.data, config, backbone, directory, recommender)
    : fromFlags(flags, config, backbone, recommender);
  const workload: Workload = { config, backbone, recommender, ...texts };
  const traits = await traitsOf(flags.adapter);
  const plan = await planMemory(traits, workload);
  console.log(planLines(name, workload, traits, plan).join("\n"));
  checkMemory(plan, traits);
}

/** The account of a published backbone with every default but the storage of its weights, for any GPU. */
export function planOf(name: string, weights: Config["weights"]): Promise<MemoryPlan> {
  const config = { ...presetConfig("paper"), weights };
  const backbone = parseDecoderConfig(`${name} as published`, PUBLISHED[name].config);
  const recommender = PRETRAIN.bert4rec;
  const texts = fromFlags({}, config, backbone, recommender);
  return planMemory(ANY_GPU, { config, backbone, recommender, ...texts });
}

/** config.json of a backbone on this machine, else as it was published. */
async function configOf(name: string): Promise<{ backbone: DecoderConfig; directory: string | null }> {
  const directory = findBackbone(name);
  if (directory !== null) return { backbone: await readDecoderConfig(directory), directory };
  return { backbone: parseDecoderConfig(`${name} as published`, PUBLISHED[name].config), directory };
}

async function settingsOf(choice: ReturnType<typeof namedRecommender>): Promise<RecommenderSettings> {
  if ("name" in choice) return PRETRAIN[choice.name];
  if ("folder" in choice) return recommenderSettings(choice.folder);
  throw new UserError("--item-vectors: laser plan does not read them; name a recommender of their width");
}

async function traitsOf(adapter: string | undefined): Promise<AdapterTraits> {
  if (!adapter) return ANY_GPU;
  using gpu = await openGpu(adapter);
  return gpu.traits;
}

type Texts = Pick<Workload, "items" | "batch" | "encoded">;

/** Sizes as the flags give them, cut to what the backbone and the recommender can read. */
function fromFlags(
  flags: PlanFlags,
  config: Config,
  backbone: DecoderConfig,
  recommender: RecommenderSettings,
): Texts {
  const added = addedTokens(config);
  const room = backbone.maxPositions - added;
  for (const [flag, tokens] of [
    ["--tokens", flags.tokens ?? 1],
    ["--item-tokens", flags.itemTokens ?? 1],
  ] as const) {
    if (tokens <= room) continue;
    throw new UserError(
      `${flag} ${tokens}: with the ${added} tokens that Laser adds, this ${backbone.architecture} reads at most ${backbone.maxPositions} (its ${backbone.positionLimit})`,
    );
  }
  const items = flags.items ?? ITEMS;
  const shown = Math.min(config.maxHistory, recommenderPositions(recommender));
  const longest: TextSize = { tokens: Math.min(flags.tokens ?? TOKENS, room), items: shown };
  return {
    items,
    batch: new Array<TextSize>(config.batchSize).fill(longest),
    encoded: encodingStep(config, Math.min(flags.itemTokens ?? ITEM_TOKENS, room), items),
  };
}

/** Sizes from a sample of the data's own texts. */
async function fromData(
  flags: PlanFlags,
  data: string,
  config: Config,
  backbone: DecoderConfig,
  directory: string | null,
  recommender: RecommenderSettings,
): Promise<Texts> {
  for (const flag of ["tokens", "itemTokens", "items"] as const) {
    if (flags[flag] !== undefined)
      throw new UserError(`--data ${data} says what --tokens, --item-tokens and --items say; leave them out`);
  }
  if (directory === null) {
    throw new UserError(
      `--data ${data}: counting tokens needs the tokenizer of ${flags.backbone}, which is not on this machine; give --tokens, --item-tokens and --items instead`,
    );
  }
  const { dataset } = await openData(data, terminalProgress());
  const tokenizer = await loadTokenizer(directory);
  const texts = runTexts(dataset.items, tokenizer, backbone, recommenderPositions(recommender), config);
  return { items: dataset.items.length, ...sampledSizes(config, dataset, texts) };
}

/** The account as it is printed. */
export function planLines(
  name: string,
  workload: Workload,
  traits: AdapterTraits,
  plan: MemoryPlan,
): string[] {
  const { config, backbone, batch, encoded, items } = workload;
  const parameters = sourceTensors(weightSources(backbone)).reduce(
    (sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1),
    0,
  );
  const count = (n: number) => n.toLocaleString("en-US");
  const storages = WEIGHT_STORAGES.map((storage) => `${storage} ${size(decoderBytes(backbone, storage))}`);
  const bytes = (value: number) => size(value).padStart(12);
  return [
    `${name} (${backbone.architecture}): ${count(parameters)} frozen weights; ${storages.join(", ")}`,
    `training on ${batch.length} texts of up to ${count(batch[0].tokens)} tokens + ${addedTokens(config)} that Laser adds, ` +
      `encoding ${encoded.length} texts of ${count(encoded[0].tokens)} a step, ${count(items)} items, weights in ${config.weights}, on ${traits.name}:`,
    ...plan.parts.filter((part) => part.bytes > 0).map((part) => `${bytes(part.bytes)}  ${part.name}`),
    `${bytes(totalBytes(plan))}  together`,
  ];
}
