/** One training step of a Laser with random weights, as the benchmarks of it repeat it. */
import { randomTexts } from "./backbone.js";
import { laser } from "./harness.js";
import { randomLaser, unitRows } from "./model.js";

const LOSS = { temperature: 0.05, lambda: 0.1, loadBalancing: "sequence" };

/** Milliseconds of processor time, all threads of this process, since `from`. */
function processorTime(from) {
  const { user, system } = process.cpuUsage(from);
  return (user + system) / 1000;
}

/**
 * A model of one of model.js's sizes, a batch of texts and an item set. `step()` trains on the batch once, recording anew
 * and sending one submit as training does, and gives its times in ms (total; record and gpu, from the submit to its end;
 * processor time of both) and the loss before the update. `tokens` counts virtual ones too.
 */
export async function openTraining(gpu, size) {
  const { model, vocabulary, release } = await randomLaser(gpu, size);
  const { batch, history, longest, items: count } = size;
  const text = { count: batch, shortest: Math.round(0.75 * longest), longest };
  const texts = randomTexts({ ...text, vocabulary, history, items: count });
  const width = model.backbone.hiddenSize;
  const items = gpu.parameter([count, width], "f32", unitRows(count, width));
  const targets = Uint32Array.from(texts, (_, b) => (b * 7919) % count);
  const adam = new laser.Adam(gpu, model.parameters, laser.ADAM);
  let update = 0;
  const record = (step) => {
    const { iicSum } = model.trainStep(step, texts, targets, items, LOSS, { seed: 1, step: update++ });
    adam.update(step, 1e-3);
    return iicSum;
  };
  return {
    tokens: texts.reduce((sum, { ids }) => sum + ids.length + model.addedTokens, 0),
    trainable: model.parameters.count,
    async step() {
      const cpu = process.cpuUsage();
      const start = performance.now();
      const step = gpu.step("train");
      const read = step.readFloats(record(step));
      const recorded = performance.now();
      const recordCpu = processorTime(cpu);
      await step.submit();
      const end = performance.now();
      const loss = (await read)[0] / batch;
      const gpuCpu = processorTime(cpu) - recordCpu;
      return { total: end - start, record: recorded - start, gpu: end - recorded, recordCpu, gpuCpu, loss };
    },
    release() {
      gpu.release(items);
      adam.release();
      release();
    },
  };
}
