import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ADAM, Adam } from "../src/autograd/adam.ts";
import { type Dataset, makeDataset } from "../src/data/dataset.ts";
import { Random } from "../src/data/random.ts";
import { Gpu } from "../src/gpu/device.ts";
import { Bert4Rec } from "../src/recommenders/bert4rec.ts";
import { loadBackbone, openBackbone } from "../src/train/backbone.ts";
import { checkConfig, defaultConfig } from "../src/train/config.ts";
import { SILENT } from "../src/train/progress.ts";
import { openSession } from "../src/train/session.ts";
import { temporaryFolder } from "./temporary.ts";
import { writeTinyBackbone } from "./tiny-job.ts";

const t = suite("memory");
const STEPS = 200;
/** Steps after which every size that the batches need has been seen. */
const SETTLED = 40;
/** What the host's memory may wander by between the halves of the loop: garbage that is not collected yet. */
const HOST_SLACK = 24 * 2 ** 20;

const CONFIG = checkConfig(
  {
    ...defaultConfig(),
    template: "no-instruction",
    maxHistory: 3,
    queryTokens: 2,
    experts: 3,
    activeExperts: 2,
    mformerWidth: 8,
    mformerBlocks: 2,
    mformerHeads: 2,
    batchSize: 4,
  },
  "the test",
);

function dataset(): Dataset {
  const random = new Random(1, "memory test");
  const items = Array.from({ length: 40 }, (_, i) => ({ id: `i${i}`, title: `Pot ${"x".repeat(i % 7)}` }));
  const sequences = Array.from({ length: 40 }, () => Uint32Array.from({ length: 6 }, () => random.below(40)));
  const provenance = {
    format: "test",
    core: 0,
    duplicates: "keep" as const,
    dropped: [],
    files: [],
    unusedItems: 0,
  };
  return makeDataset({
    name: "memory",
    users: sequences.map((_, u) => `u${u}`),
    items,
    sequences,
    provenance,
  });
}

t("GPU and host memory stay flat over 200 training steps", async () => {
  const data = dataset();
  const gpu = await Gpu.open();
  try {
    const files = await openBackbone(await writeTinyBackbone(join(temporaryFolder(), "backbone")));
    const backbone = await loadBackbone(gpu, files, "f32", SILENT);
    const recommender = new Bert4Rec({ items: 40, width: 8, heads: 2, blocks: 1, maxLength: 10, dropout: 0 });
    recommender.parameters.build(gpu, 1);
    const { laser, texts } = openSession({ gpu, config: CONFIG, dataset: data, recommender, backbone });
    const adam = new Adam(gpu, laser.parameters, ADAM);
    const width = backbone.decoder.hiddenSize;
    const items = gpu.parameter([40, width], "f32", new Float32Array(40 * width).fill(width ** -0.5));
    const loss = { temperature: 0.05, lambda: 0.1, loadBalancing: "sequence" as const };

    const readings: { gpu: number; groups: number; host: number }[] = [];
    for (let n = 0; n < STEPS; n++) {
      // Ten batches of different texts, over and over.
      const users = Array.from(
        { length: CONFIG.batchSize },
        (_, b) => ((n % 10) * CONFIG.batchSize + b) % 40,
      );
      const inputs = users.map((u) => texts.user(data.sequences[u].subarray(0, 1 + (u % 5))));
      const targets = Uint32Array.from(users, (u) => data.sequences[u][5]);
      const record = (step: Parameters<typeof laser.trainStep>[0]) => {
        const result = laser.trainStep(step, inputs, targets, items, loss, { seed: 1, step: n });
        adam.update(step, 1e-4);
        return result;
      };
      if (n === 0) {
        await gpu.warm((step) => void record(step));
        adam.updates = 0;
        laser.parameters.clearGradients();
      }
      const step = gpu.step("train");
      const read = step.readFloats(record(step).iicSum);
      await step.submit();
      assert.ok(Number.isFinite((await read)[0]), `step ${n}`);
      readings.push({
        gpu: gpu.buffers.bytes,
        groups: gpu.bindGroupsCreated,
        host: process.memoryUsage.rss(),
      });
    }
    const settled = readings.slice(SETTLED);
    assert.equal([...new Set(settled.map((reading) => reading.gpu))].length, 1, "GPU memory is not flat");
    assert.equal(
      [...new Set(settled.map((reading) => reading.groups))].length,
      1,
      "bind groups keep being made",
    );
    const half = settled.length / 2;
    const most = (part: typeof settled) => Math.max(...part.map((reading) => reading.host));
    const growth = most(settled.slice(half)) - most(settled.slice(0, half));
    assert.ok(growth < HOST_SLACK, `host memory grew by ${(growth / 2 ** 20).toFixed(1)} MiB`);
  } finally {
    gpu.close();
  }
});

t.run();
