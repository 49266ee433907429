// A whole backbone from its files: node bench/full.js DIR [--batch N] [--tokens N] [--weights f16] [--prefix mformer]
//                                   [--rounds N] [--adapter NAME]
//
// Loads the checkpoint of a directory (weights/make-random.mjs makes one of a published size), and says how long that
// took and how far host memory grew; then times one encoding and one training step of a batch of texts of one length, and
// holds the bytes of GPU memory against those that were planned. Hyper-parameters are the paper's.
import { existsSync } from "node:fs";
import { scriptArguments, stop } from "../weights/script.mjs";

const built = new URL("../dist/index.js", import.meta.url);
if (!existsSync(built)) {
  console.error("dist/ is missing: run `npm run build` first");
  process.exit(1);
}
const {
  ADAM,
  Adam,
  addedTokens,
  declareRecommender,
  defaultConfig,
  Gpu,
  Laser,
  loadDecoder,
  PRETRAIN,
  planMemory,
  readDecoderConfig,
  size,
  totalBytes,
} = await import(built.href);

const { values, positionals } = scriptArguments(
  {
    batch: { type: "string", default: "4" },
    tokens: { type: "string", default: "400" },
    weights: { type: "string", default: "f16" },
    prefix: { type: "string", default: "mformer" },
    rounds: { type: "string", default: "3" },
    adapter: { type: "string" },
  },
  { operands: true, counts: ["batch", "tokens", "rounds"] },
);
const [directory] = positionals;
if (!directory)
  stop("usage: node bench/full.js DIR [--batch N] [--tokens N] [--weights f16] [--prefix mformer]");
const ITEMS = 10_000;
const [batch, tokens, rounds] = [values.batch, values.tokens, values.rounds].map(Number);
const config = { ...defaultConfig(), batchSize: batch, weights: values.weights, prefix: values.prefix };
async function measure(gpu, backbone) {
  console.log(`${directory} (${backbone.architecture}) on ${gpu.adapterName}`);

  const sizes = new Array(batch).fill({ tokens, items: config.maxHistory });
  const recommender = PRETRAIN.bert4rec;
  const workload = { config, backbone, recommender, items: ITEMS, batch: sizes, encoded: sizes };
  const plan = await planMemory(gpu.traits, workload);

  const before = process.memoryUsage.rss();
  let peak = before;
  let fileBytes = 0;
  let started = performance.now();
  const decoder = await loadDecoder(gpu, directory, {
    weights: config.weights,
    onProgress: (done) => {
      fileBytes = done;
      peak = Math.max(peak, process.memoryUsage.rss());
    },
  });
  await gpu.flush();
  const seconds = (performance.now() - started) / 1000;
  const inHost = gpu.software ? gpu.buffers.bytes : 0;
  console.log(
    `loaded in ${seconds.toFixed(1)} s, ${(fileBytes / seconds / 1e9).toFixed(2)} GB/s of the files: ${size(gpu.buffers.bytes)} of GPU memory; host memory grew by at most ${size(Math.max(0, peak - before - inHost))}${inHost ? " beside the adapter's own, which is main memory too" : ""}`,
  );

  const under = declareRecommender(ITEMS, recommender);
  under.parameters.build(gpu, 1);
  const laser = new Laser(
    config,
    decoder,
    (step, histories) => under.hiddenStates(step, histories),
    under.width,
  );
  laser.parameters.build(gpu, 1);
  const adam = new Adam(gpu, laser.parameters, ADAM);
  const width = decoder.hiddenSize;
  const rows = new Float32Array(ITEMS * width).map(
    (_, i) => (((i * 7919) % 13) - 6) / (6 * Math.sqrt(width)),
  );
  const items = gpu.parameter([ITEMS, width], "f32", rows);
  const texts = sizes.map((text, b) => ({
    ids: Uint32Array.from({ length: text.tokens }, (_, i) => (i * 31 + b * 17) % backbone.vocabularySize),
    items: Array.from({ length: text.items }, (_, i) => (i * 37 + b) % ITEMS),
  }));
  const { temperature, lambda, loadBalancing } = config;
  const loss = { temperature, lambda, loadBalancing };
  const targets = Uint32Array.from(texts, (_, b) => b);

  /** Runs `record` once to compile, then `rounds` times; prints the median. Returns the last result's first number. */
  async function timed(label, record) {
    await gpu.warm((step) => void record(step));
    laser.parameters.clearGradients();
    adam.updates = 0;
    const times = [];
    let value = 0;
    for (let i = 0; i < rounds; i++) {
      started = performance.now();
      const step = gpu.step(label);
      const read = step.readFloats(record(step));
      await step.submit();
      value = (await read)[0];
      times.push(performance.now() - started);
    }
    if (!Number.isFinite(value)) throw new Error(`${label} gave ${value}`);
    times.sort((a, b) => a - b);
    const median = times[times.length >> 1];
    const each = batch * (tokens + addedTokens(config));
    console.log(
      `${label} of ${batch} texts of ${tokens} + ${addedTokens(config)} tokens: ${(median / 1000).toFixed(3)} s (${times.map((ms) => (ms / 1000).toFixed(3)).join(", ")}), ${((1000 * each) / median).toFixed(0)} tokens/s`,
    );
  }

  await timed("encoding", (step) => laser.encode(step, texts));
  await timed("a training step", (step) => {
    const { iicSum } = laser.trainStep(step, texts, targets, items, loss, { seed: 1, step: 0 });
    adam.update(step, 1e-4);
    return iicSum;
  });
  const [planned, held] = [totalBytes(plan), gpu.buffers.bytes];
  console.log(
    `GPU memory: planned ${size(planned)}, held ${size(held)} (${((100 * (held - planned)) / planned).toFixed(2)} %)`,
  );
}

let gpu;
try {
  const backbone = await readDecoderConfig(directory);
  gpu = await Gpu.open({ adapter: values.adapter });
  await measure(gpu, backbone);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  gpu?.close();
}
