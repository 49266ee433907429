import type { Gpu } from "../../gpu/device.ts";
import type { Step } from "../../gpu/step.ts";
import { Bert4Rec } from "../../recommenders/bert4rec.ts";
import type { TrainableRecommender, TrainingBatch } from "../../recommenders/recommender.ts";
import { SasRec } from "../../recommenders/sasrec.ts";
import type { Dump } from "./dump.ts";
import { inStep, modelKind } from "./kind.ts";
import { loadParameters, readParameters } from "./named-parameters.ts";
import { Outputs } from "./outputs.ts";

/** Sizes from a dump's params; dropout is off. */
function sizesOf(dump: Dump) {
  const sizes = {
    items: dump.count("items"),
    width: dump.count("width"),
    heads: dump.count("heads"),
    blocks: dump.count("blocks"),
    maxLength: dump.count("max_length"),
    dropout: 0,
  };
  if (sizes.width % sizes.heads) throw dump.badParam("heads", `a divisor of width, ${sizes.width}`);
  return sizes;
}

/** The packed ids of the dump, cut into sequences. `below` is the number of ids that the model reads. */
function sequencesOf(dump: Dump, below: number, maxLength: number): Uint32Array<ArrayBuffer>[] {
  const ids = Uint32Array.from(dump.ids("ids", ["T"], below));
  let end = 0;
  return dump.lengths("lengths", ["S"], ids.length).map((length) => {
    if (length > maxLength)
      throw dump.error(`tensor lengths holds ${length}, more than max_length ${maxLength}`);
    end += length;
    return ids.slice(end - length, end);
  });
}

/** Hidden states, mean loss and gradients of one batch without dropout. */
async function run<Batch extends TrainingBatch>(
  gpu: Gpu,
  dump: Dump,
  model: TrainableRecommender<Batch>,
  sequences: readonly Uint32Array[],
  batch: Batch,
): Promise<Outputs> {
  const outputs = new Outputs(dump);
  const { parameters } = model;
  loadParameters(gpu, parameters, dump);
  try {
    await inStep(gpu, dump, (step: Step) =>
      outputs.read(step, "hidden", model.hiddenStates(step, sequences), ["T", model.width]),
    );
    const { loss, gradients } = await inStep(gpu, dump, (step: Step) => {
      const sum = step.readFloats(model.trainStep(step, batch, null));
      // The step rejects too, and is awaited first.
      sum.catch(() => {});
      parameters.settleGradients(step);
      return { loss: sum, gradients: readParameters(step, parameters, parameters.gradients, outputs, "g.") };
    });
    outputs.set("loss", [(await loss)[0] / batch.targets.length], []);
    await Promise.all([gradients, outputs.settle()]);
  } finally {
    model.release(gpu);
  }
  return outputs;
}

/** bert4rec: one cloze batch; the ids hold the mask where it stands. */
export const bert4recCase = modelKind(
  ({ gpu }, dump) => {
    const sizes = sizesOf(dump);
    const sequences = sequencesOf(dump, sizes.items + 1, sizes.maxLength);
    const maskedRows = Uint32Array.from(dump.ids("masked_rows", ["M"], dump.size("T")));
    const targets = Uint32Array.from(dump.ids("targets", ["M"], sizes.items));
    const batch = { sequences: sequences.map((ids) => [...ids]), maskedRows, targets };
    return run(gpu, dump, new Bert4Rec(sizes), sequences, batch);
  },
  { frozen: false },
);

/** sasrec: one next-item batch, with cross-entropy or the binary loss. */
export const sasrecCase = modelKind(
  ({ gpu }, dump) => {
    const sizes = sizesOf(dump);
    const loss = dump.choice("loss", ["cross-entropy", "binary"]);
    const sequences = sequencesOf(dump, sizes.items, sizes.maxLength);
    const targets = Uint32Array.from(dump.ids("targets", ["T"], sizes.items));
    const negatives = loss === "binary" ? Uint32Array.from(dump.ids("negatives", ["T"], sizes.items)) : null;
    return run(gpu, dump, new SasRec(sizes), sequences, { sequences, targets, negatives });
  },
  { frozen: false },
);
