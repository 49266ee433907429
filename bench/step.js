// A whole training step of Laser: node bench/step.js [--json] [--quick] [--adapter=NAME]
//
// BERT4Rec's C, M-Former, frozen language model (f16 weights), loss over all I items, backward, Adam: recorded anew and
// sent in one submit each time, as training does. Printed: the time of the whole step, of recording it, and from its
// submit to the end of the GPU's work; the processor time of both (on a software adapter the GPU's work is the
// processor's); tokens (virtual ones included) a second; dispatches and submits as counted; GFLOP/s of the kernels
// that run, as the ops state them, against the limit of f32 multiply-adds. The same batch is trained throughout, and its
// loss must fall.
import { account } from "./account.js";
import { thousands } from "./backbone.js";
import { json, open, quick } from "./harness.js";
import { DEMO, MIDDLE, PAPER, TINY } from "./model.js";
import { spread } from "./spread.js";
import { openTraining } from "./training.js";

const ROUNDS = quick ? 5 : 9;
const bench = await open("One training step of Laser, random weights");
const { gpu } = bench;
const sizes = quick ? [TINY] : gpu.software ? [DEMO, MIDDLE] : [DEMO, MIDDLE, PAPER];

async function size(shape) {
  const { batch, items: count } = shape;
  const training = await openTraining(gpu, shape);
  const { tokens, step: whole } = training;
  const first = await whole(); // Compiles.
  const counts = await account(gpu, whole);
  await whole();
  const rounds = [];
  for (let i = 0; i < ROUNDS; i++) rounds.push(await whole());
  const last = rounds[ROUNDS - 1].loss;
  if (!(last < first.loss))
    throw new Error(
      `${shape.name}: the loss is ${last} after ${ROUNDS + 3} steps on one batch, was ${first.loss}`,
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
    trainable: training.trainable,
    gpuBytes: gpu.buffers.bytes,
    loss: { first: first.loss, last },
  };
  bench.results.push(result);
  if (!json) print(result, shape);
  training.release();
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
