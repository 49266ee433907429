// A whole training step of Laser: node bench/step.js [--json] [--quick] [--adapter=NAME]
//
// BERT4Rec's C, M-Former, frozen language model (f16 weights), loss over all I items, backward, Adam: recorded anew and
// sent in one submit each time, as training does. Printed: the time of the whole step, of recording it, and from its
// submit to the end of the GPU's work; the processor time of both (on a software adapter the GPU's work is the
// processor's); tokens (virtual ones included) a second; dispatches and submits as counted; GFLOP/s of the kernels
// that run, as the ops state them, against the limit of f32 multiply-adds. The same batch is trained throughout, and its
// loss must fall.
import { account } from "./account.js";
import { randomTexts, spread, thousands } from "./backbone.js";
import { json, laser, open, quick } from "./harness.js";
import { DEMO, MIDDLE, PAPER, randomLaser, TINY, unitRows } from "./model.js";

const ROUNDS = quick ? 5 : 9;
const LOSS = { temperature: 0.05, lambda: 0.1, loadBalancing: "sequence" };
const bench = await open("One training step of Laser, random weights");
const { gpu } = bench;
const sizes = quick ? [TINY] : gpu.software ? [DEMO, MIDDLE] : [DEMO, MIDDLE, PAPER];

/** Milliseconds of processor time, all threads of this process, since `from`. */
function processorTime(from) {
  const { user, system } = process.cpuUsage(from);
  return (user + system) / 1000;
}

async function size(shape) {
  const { model, vocabulary, release } = await randomLaser(gpu, shape);
  const { batch, history, longest, items: count } = shape;
  const text = { count: batch, shortest: Math.round(0.75 * longest), longest };
  const texts = randomTexts({ ...text, vocabulary, history, items: count });
  const tokens = texts.reduce((sum, { ids }) => sum + ids.length + model.addedTokens, 0);
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
  const whole = async () => {
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
  };
  const first = await whole(); // Compiles.
  const counts = await account(gpu, whole);
  await whole();
  const rounds = [];
  for (let i = 0; i < ROUNDS; i++) rounds.push(await whole());
  const last = rounds[ROUNDS - 1].loss;
  if (!(last < first.loss))
    throw new Error(
      `${shape.name}: the loss is ${last} after ${update} steps on one batch, was ${first.loss}`,
    );
  const times = (key) => spread(rounds.map((round) => round[key]));
  const total = times("total");
  const gflops = counts.flops / total.median / 1e6;
  const result = {
    name: `training step, ${shape.name}: batch ${batch}, ${tokens} tokens, I ${count}`,
    ...total,
    record: times("record"),
    gpu: times("gpu"),
    processor: { record: times("recordCpu"), gpu: times("gpuCpu") },
    tokens,
    tokensPerSecond: (1000 * tokens) / total.median,
    ...counts,
    gflops,
    share: gflops / bench.limits.gflops,
    trainable: model.parameters.count,
    gpuBytes: gpu.buffers.bytes,
    loss: { first: first.loss, last },
  };
  bench.results.push(result);
  if (!json) print(result, shape);
  gpu.release(items);
  adam.release();
  release();
}

function print(result, { backbone, mformer, queries }) {
  const ms = ({ median, least, most }) =>
    `${median.toFixed(2).padStart(9)} ms (${least.toFixed(2)} .. ${most.toFixed(2)})`;
  const { mformerWidth, mformerBlocks } = mformer;
  const { experts, activeExperts, queryTokens } = queries;
  const sizes = `M-Former ${mformerWidth} x ${mformerBlocks}, K ${experts}, k ${activeExperts}, L ${queryTokens}`;
  console.log(`\n${result.name}`);
  console.log(
    `  Llama ${backbone.d} x ${backbone.layers}, ${sizes}; trainable ${thousands(result.trainable)}`,
  );
  console.log(`  whole step             ${ms(result)}`);
  console.log(
    `  recording              ${ms(result.record)}, processor ${ms(result.processor.record).trim()}`,
  );
  console.log(`  submit to end          ${ms(result.gpu)}, processor ${ms(result.processor.gpu).trim()}`);
  const rate = `${result.gflops.toFixed(1)} GFLOP/s, ${(100 * result.share).toFixed(0)} % of the limit`;
  console.log(`  ${thousands(result.tokensPerSecond)} tokens/s; ${rate}`);
  console.log(`  dispatches ${result.dispatches}, submits ${result.submits}`);
  console.log(`  GPU memory ${(result.gpuBytes / 2 ** 20).toFixed(0)} MiB`);
  console.log(`  loss ${result.loss.first.toFixed(3)}, at the end ${result.loss.last.toFixed(3)}`);
}

try {
  for (const each of sizes) await size(each);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
await bench.finish({ rounds: ROUNDS });
