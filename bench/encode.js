// Encoding the item set: node bench/encode.js [--json] [--quick] [--adapter=NAME]
//
// What begins every epoch of phase 1: the texts of all items through M-Former (or without prefix) and frozen language
// model, f16 weights, in steps of at most a budget of tokens; from the first packing to the last row read back. GFLOP/s
// counts the operations of the kernels that run, as the ops state them, against the limit of f32 multiply-adds. Every row
// must have norm one, and all budgets must give the same rows.
import { account } from "./account.js";
import { randomTexts, thousands } from "./backbone.js";
import { json, laser, open, quick } from "./harness.js";
import { DEMO, MIDDLE, PAPER, randomLaser, TINY } from "./model.js";
import { spread } from "./spread.js";

const ROUNDS = quick ? 5 : 7;
const bench = await open("Encoding the item set, random weights");
const { gpu } = bench;
const sizes = quick ? [TINY] : gpu.software ? [DEMO, MIDDLE] : [DEMO, MIDDLE, PAPER];
/** Items encoded a round: fewer of wide models on software adapters, where it takes long. */
const countOf = ({ backbone }) => (quick ? 8 : gpu.software ? 8192 / backbone.d : 4096);
const BUDGETS = quick ? [64, 8192] : [1024, 8192];

/** Throws unless the rows have norm one and are those of `expected`. */
function check(name, rows, width, expected) {
  for (let i = 0; i < rows.length; i += width) {
    const norm = Math.hypot(...rows.subarray(i, i + width));
    if (!(Math.abs(norm - 1) < 1e-4)) throw new Error(`${name}: row ${i / width} has norm ${norm}`);
  }
  const off = expected
    ? rows.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0)
    : 0;
  if (!(off < 1e-4)) throw new Error(`${name}: rows differ by ${off} from those of the other budget`);
}

async function size(shape, prefix) {
  const { model, vocabulary, release } = await randomLaser(gpu, shape, prefix);
  const count = countOf(shape);
  // An item's text is a history of one.
  const longest = quick ? 30 : 70;
  const text = { count, shortest: Math.round(0.6 * longest), longest };
  const texts = randomTexts({ ...text, vocabulary, items: shape.items });
  const tokens = texts.reduce((sum, { ids }) => sum + ids.length + model.addedTokens, 0);
  const width = model.backbone.hiddenSize;
  let expected = null;
  for (const budget of BUDGETS) {
    const what = prefix === "mformer" ? "M-Former" : "no prefix";
    const name = `encode, ${shape.name}, ${what}: ${count} items, budget ${budget}`;
    const encode = () => laser.encodeAll(gpu, model, texts, budget, laser.SILENT, "items");
    const rows = await encode(); // Compiles.
    check(name, rows, width, expected);
    expected ??= rows;
    const counts = await account(gpu, encode);
    const times = [];
    for (let i = 0; i < ROUNDS; i++) {
      const start = performance.now();
      await encode();
      times.push(performance.now() - start);
    }
    const time = spread(times);
    const gflops = counts.flops / time.median / 1e6;
    const rates = {
      itemsPerSecond: (1000 * count) / time.median,
      tokensPerSecond: (1000 * tokens) / time.median,
    };
    const share = gflops / bench.limits.gflops;
    bench.results.push({ name, ...time, items: count, tokens, ...rates, ...counts, gflops, share });
    if (!json) {
      const range = `${time.median.toFixed(1)} ms (${time.least.toFixed(1)} .. ${time.most.toFixed(1)})`;
      const speed = `${thousands(rates.itemsPerSecond)} items/s, ${thousands(rates.tokensPerSecond)} tokens/s`;
      const work = `${gflops.toFixed(1)} GFLOP/s, ${(100 * share).toFixed(0)} % of the limit`;
      console.log(`\n${name}\n  ${range}; ${speed}; ${work}`);
      console.log(`  dispatches ${counts.dispatches}, submits ${counts.submits}`);
    }
  }
  release();
}

try {
  for (const each of sizes) for (const prefix of ["mformer", "none"]) await size(each, prefix);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
await bench.finish({ rounds: ROUNDS });
