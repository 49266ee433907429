// Loading a frozen Llama: node bench/load.js [--json] [--quick] [--adapter=NAME]
//
// From checkpoints of random weights (92 million, in a temporary folder) in F32, F16 and BF16 to GPU memory in every storage,
// by two versions: the GPU converts (what loadDecoder does), or the host does (WeightLoader.stream, what is no whole groups).
// The yardstick is reading the same file in pieces of the same size and nothing else, in the same run: it comes from the host's
// page cache, faster than most disks.
// Before timing, the two versions must give the same words.
import { mkdtempSync, rmSync } from "node:fs";
import { open as openFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { json, laser, open, quick } from "./harness.js";
import { spread } from "./spread.js";

const { everyWeight, loadDecoder, mapWeights, openCheckpoint, parseDecoderConfig, placementOf } = laser;
const { WeightLoader, weightJobs, weightSources, writeRandomCheckpoint, WEIGHT_STORAGES } = laser;

const ROUNDS = 5;
const PIECE = 16 * 2 ** 20;
const TYPES = { float32: "F32", float16: "F16", bfloat16: "BF16" };
const [d, layers, vocabulary] = quick ? [64, 2, 512] : [1024, 6, 16000];
const geometry = {
  architectures: ["LlamaForCausalLM"],
  hidden_size: d,
  num_hidden_layers: layers,
  num_attention_heads: d / 64,
  intermediate_size: Math.round((d * 2.6875) / 8) * 8,
  vocab_size: vocabulary,
  rms_norm_eps: 1e-5,
};
const config = parseDecoderConfig("the benchmark", geometry);

const bench = await open(`Loading a Llama, d ${d} x ${layers}, random weights`);
const { gpu } = bench;
const folder = mkdtempSync(join(tmpdir(), "laser-load-"));

/** Reads a file in pieces; returns its bytes. */
async function readFile(path) {
  const file = await openFile(path);
  const piece = new Uint8Array(PIECE);
  let bytes = 0;
  for (let read = -1; read !== 0; bytes += read)
    ({ bytesRead: read } = await file.read(piece, 0, PIECE, bytes));
  await file.close();
  return bytes;
}

/** Every number passes through the host, as where the GPU cannot convert. */
async function byHost(directory, storage) {
  const checkpoint = await openCheckpoint(directory);
  const jobs = [];
  const weights = await mapWeights(weightSources(config), (source) => {
    const placement = placementOf(source, config, storage);
    const tensor = gpu.parameter(placement.shape, placement.storage);
    jobs.push(...weightJobs(source, placement, tensor));
    return tensor;
  });
  await new WeightLoader(gpu, checkpoint, () => {}).stream(jobs);
  await checkpoint.close();
  return weights;
}

async function byGpu(directory, storage) {
  return (await loadDecoder(gpu, directory, { weights: storage })).weights;
}

const release = (weights) => {
  for (const tensor of everyWeight(weights)) gpu.release(tensor);
};

/** Throws unless both versions put the same words into GPU memory. */
async function check(name, directory, storage) {
  const [one, other] = [await byGpu(directory, storage), await byHost(directory, storage)];
  const others = everyWeight(other);
  for (const [i, tensor] of everyWeight(one).entries()) {
    const words = (await Promise.all([tensor, others[i]].map(async (t) => gpu.read(t)))).map(
      ({ buffer }) => new Uint32Array(buffer),
    );
    const off = words[0].findIndex((word, k) => word !== words[1][k]);
    if (off >= 0)
      throw new Error(`${name}: word ${off} of weight ${i} is ${words[0][off]}, the host's ${words[1][off]}`);
  }
  release(one);
  release(other);
}

async function timed(work) {
  const start = performance.now();
  const result = await work();
  await gpu.flush();
  return [performance.now() - start, result];
}

function report(name, times, bytes, reading) {
  const spans = spread(times);
  const gbytes = bytes / spans.median / 1e6;
  const result = { name, ...spans, gbytes, share: reading / spans.median };
  bench.results.push(result);
  if (json) return;
  const range = `(${spans.least.toFixed(1)} .. ${spans.most.toFixed(1)})`;
  const share = `${(100 * result.share).toFixed(0)} % of reading`;
  console.log(
    `${name.padEnd(28)}${spans.median.toFixed(1).padStart(9)} ms ${range.padEnd(22)} ${gbytes.toFixed(2)} GB/s of the file, ${share}`,
  );
}

async function type(dtype) {
  const directory = join(folder, dtype);
  await writeRandomCheckpoint(directory, { ...geometry, torch_dtype: dtype }, { seed: 1, shardBytes: 1e12 });
  const path = join(directory, "model.safetensors");
  const read = [];
  let bytes = 0;
  for (let round = -1; round < ROUNDS; round++) {
    const [time, size] = await timed(() => readFile(path));
    bytes = size;
    if (round >= 0) read.push(time);
  }
  const reading = spread(read).median;
  report(`${TYPES[dtype]} file, reading`, read, bytes, reading);
  for (const storage of WEIGHT_STORAGES) {
    const name = `${TYPES[dtype]} to ${storage}`;
    await check(name, directory, storage);
    const versions = { GPU: byGpu, host: byHost };
    const times = { GPU: [], host: [] };
    // In turn, so that another program's load meets both alike.
    for (let round = 0; round < ROUNDS; round++) {
      for (const version in versions) {
        const [time, loaded] = await timed(() => versions[version](directory, storage));
        times[version].push(time);
        release(loaded);
      }
    }
    for (const version in versions) report(`${name}, ${version}`, times[version], bytes, reading);
  }
  rmSync(directory, { recursive: true });
}

try {
  for (const dtype in TYPES) await type(dtype);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
await bench.finish({ rounds: ROUNDS });
