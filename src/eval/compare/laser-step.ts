import { ADAM, Adam } from "../../autograd/adam.ts";
import type { Step } from "../../gpu/step.ts";
import { addedTokens, Laser, type LaserSizes, type LaserStep, type LossSettings } from "../../laser/laser.ts";
import type { TokenizedText } from "../../laser/text.ts";
import type { Decoder } from "../../llm/decoder.ts";
import { normalizeRows } from "../../ops/item-set.ts";
import { readTexts } from "./backbone.ts";
import type { Dump } from "./dump.ts";
import { type Context, inStep, modelKind } from "./kind.ts";
import { mformerSizes } from "./mformer.ts";
import { loadParameters, readParameters } from "./named-parameters.ts";
import { Outputs } from "./outputs.ts";

const LEARNING_RATE = 1e-3;

/** The key bias moves a row's scores all alike, which softmax does not see: its gradient is rounding noise. */
const KEY_BIAS = /k\.bias$/;
const KEY_BIAS_REASON = "the gradient is zero in theory, and Adam makes real steps of its rounding noise";

/** The sizes of a Laser from a dump's params; those of an M-Former that is not there are never used. */
function laserSizes(dump: Dump, backbone: Decoder): { sizes: LaserSizes; collaborativeWidth: number } {
  const prefix = dump.choice("prefix", ["mformer", "free", "none"]);
  const pooling = dump.choice("pooling", ["suffix", "mean", "eos"], "suffix");
  const suffixTokens = pooling === "suffix" ? dump.count("suffix") : 1;
  const projection = dump.flag("projection", false);
  const width = dump.count("d");
  if (width !== backbone.hiddenSize) throw dump.badParam("d", `the checkpoint's ${backbone.hiddenSize}`);
  if (prefix === "mformer") {
    const { collaborativeWidth, width, heads, blocks, ...rest } = mformerSizes(dump);
    const sizes = { mformerWidth: width, mformerHeads: heads, mformerBlocks: blocks, ...rest };
    return { sizes: { ...sizes, prefix, pooling, suffixTokens, projection }, collaborativeWidth };
  }
  const counts = { experts: 1, activeExperts: 1, mformerWidth: 1, mformerBlocks: 1, mformerHeads: 1 };
  const unused = { ...counts, moe: "query" as const, gates: "weights" as const, dropout: 0 };
  const queryTokens = prefix === "free" ? dump.count("L") : 0;
  const used = { prefix, pooling, suffixTokens, queryTokens, projection };
  return { sizes: { ...unused, ...used }, collaborativeWidth: 1 };
}

function lossSettings(dump: Dump, prefix: LaserSizes["prefix"]): LossSettings {
  const temperature = dump.number("tau");
  if (temperature <= 0) throw dump.badParam("tau", "a positive number");
  const loadBalancing =
    prefix === "mformer" ? dump.choice("load_balancing", ["sequence", "batch"]) : "sequence";
  return { temperature, lambda: dump.number("lambda"), loadBalancing };
}

/** laser_step: losses and every gradient of a whole training step, then Adam steps on the same batch. */
export const laserStepCase = modelKind(
  async (context, dump) => {
    const backbone = await context.backbone(dump);
    const { sizes, collaborativeWidth } = laserSizes(dump, backbone);
    const settings = lossSettings(dump, sizes.prefix);
    const texts = readTexts(dump, backbone, "text_lengths", addedTokens(sizes));
    const items = dump.floats("E", ["I", backbone.hiddenSize]);
    const targets = Uint32Array.from(dump.ids("target", ["B"], dump.size("I")));
    const { batch, collaborative } = histories(dump, sizes, texts, collaborativeWidth);
    const laser = new Laser(sizes, backbone, collaborative, collaborativeWidth);
    loadParameters(context.gpu, laser.parameters, dump);
    try {
      return await run(context, dump, laser, batch, items, targets, settings);
    } finally {
      laser.release(context.gpu);
    }
  },
  { frozen: true },
);

/** The texts with histories of the right lengths (the items themselves do not matter: C is given). */
function histories(dump: Dump, sizes: LaserSizes, texts: readonly Uint32Array[], collaborativeWidth: number) {
  if (sizes.prefix !== "mformer") {
    const never = (): never => {
      throw new Error("only an M-Former reads collaborative embeddings");
    };
    return { batch: texts.map((ids) => ({ ids, items: [] })), collaborative: never };
  }
  const c = dump.floats("C", ["sum N", collaborativeWidth]);
  const lengths = dump.lengths("lengths", ["B"], dump.size("sum N"));
  const batch = texts.map((ids, b) => ({ ids, items: new Array<number>(lengths[b]).fill(0) }));
  return { batch, collaborative: (step: Step) => step.upload(c, [dump.size("sum N"), collaborativeWidth]) };
}

async function run(
  { gpu }: Context,
  dump: Dump,
  laser: Laser,
  batch: readonly TokenizedText[],
  items: Float32Array<ArrayBuffer>,
  targets: Uint32Array<ArrayBuffer>,
  settings: LossSettings,
): Promise<Outputs> {
  const outputs = new Outputs(dump);
  const { parameters } = laser;
  const width = laser.backbone.hiddenSize;
  await inStep(gpu, dump, (step) => outputs.read(step, "h", laser.hidden(step, batch), ["B", width]));

  /** Records losses and gradients at the parameters as they are; the values come after the step. */
  const record = (step: Step) => {
    const unit = normalizeRows(step, step.upload(items, [dump.size("I"), width])).y;
    const recorded = laser.trainStep(step, batch, targets, unit, settings, null);
    const losses = readLosses(step, recorded, batch.length, settings);
    // The step rejects too, and is awaited first.
    losses.catch(() => {});
    return losses;
  };
  const first = await inStep(gpu, dump, (step) => {
    const losses = record(step);
    parameters.settleGradients(step);
    return { losses, gradients: readParameters(step, parameters, parameters.gradients, outputs, "g.") };
  });
  parameters.clearGradients();
  const { loss, iic, lb } = await first.losses;
  outputs.set("loss", [loss], []);
  outputs.set("iic", [iic], []);
  outputs.set("lb", [lb], []);

  const lossCount = dump.has("adam_losses") ? (dump.shapeOf("adam_losses")[0] ?? 0) : 0;
  const steps = Math.max(lossCount, lastStep(dump));
  const before: number[] = [];
  const adam = new Adam(gpu, parameters, ADAM);
  try {
    for (let n = 1; n <= steps; n++) {
      const { losses, after } = await inStep(gpu, dump, (step) => {
        const losses = record(step);
        adam.update(step, LEARNING_RATE);
        return { losses, after: readParameters(step, parameters, parameters.values, outputs, `after${n}.`) };
      });
      before.push((await losses).loss);
      await after;
    }
  } finally {
    adam.release();
  }
  outputs.set("adam_losses", before.slice(0, lossCount), [lossCount]);
  for (const name of dump.remaining()) {
    if (name.startsWith("after") && KEY_BIAS.test(name) && outputs.get(name))
      outputs.skip(name, KEY_BIAS_REASON);
  }
  await Promise.all([first.gradients, outputs.settle()]);
  return outputs;
}

/** The last n of the file's after<n> outputs, or 0. */
function lastStep(dump: Dump): number {
  let steps = 0;
  for (const name of dump.remaining()) {
    const n = /^after(\d+)\./.exec(name)?.[1];
    if (n !== undefined) steps = Math.max(steps, Number(n));
  }
  return steps;
}

async function readLosses(step: Step, recorded: LaserStep, users: number, settings: LossSettings) {
  const { iicSum, balance } = recorded;
  const [sum, lb] = [step.readFloats(iicSum), balance && step.readFloats(balance)];
  const iic = (await sum)[0] / users;
  const balanceLoss = lb ? (await lb)[0] : 0;
  return { iic, lb: balanceLoss, loss: iic + settings.lambda * balanceLoss };
}
