/**
 * What every benchmark shares: options, the GPU, timing, the limits of the device measured in the same run, the table.
 *
 *   import { open } from "./harness.js";
 *   const bench = await open("what this measures");
 *   await bench.run("name", { flops, bytes }, (step) => ops of one repetition);
 *   await bench.finish();
 *
 * Options of every benchmark: --json (machine-readable), --quick (shorter, less exact), --adapter=NAME (see
 * docs/config.md, LASER_ADAPTER), --help (prints the comment at the head of the benchmark's file).
 */
import { existsSync, readFileSync } from "node:fs";

export { noise } from "./noise.js";

export const flags = process.argv.slice(2);
if (flags.includes("--help") || flags.includes("-h")) {
  const [header] = readFileSync(process.argv[1], "utf8").split(/^(?!\/\/)/m);
  console.log(header.replace(/^\/\/ ?/gm, "").trimEnd());
  console.log("\n--json: machine-readable. --quick: shorter, less exact.");
  console.log("--adapter=NAME: auto, gpu, lavapipe, swiftshader, or part of an adapter's name.");
  process.exit(0);
}

const built = new URL("../dist/index.js", import.meta.url);
if (!existsSync(built)) {
  console.error("dist/ is missing: run `npm run build` first");
  process.exit(1);
}
/** The built library. */
export const laser = await import(built.href);

export const json = flags.includes("--json");
export const quick = flags.includes("--quick");
const adapter = flags.find((flag) => flag.startsWith("--adapter="))?.slice("--adapter=".length);
// --report is of bench/all.js alone.
const known = /^--(json|quick|adapter=.+)$/;
const ownFlags = process.argv[1].endsWith("all.js") ? ["--report"] : [];
const unknown = flags.filter((flag) => !known.test(flag) && !ownFlags.includes(flag));
if (unknown.length) {
  console.error(`unknown option ${unknown[0]}: a benchmark takes --json, --quick and --adapter=NAME`);
  process.exit(1);
}

const ROUNDS = quick ? 5 : 9;
/** A round repeats the work until it takes about this long, so that submit and wait (0.1 ms) do not count. */
const ROUND_MS = quick ? 20 : 60;
const MOST_REPETITIONS = 200;

/**
 * Times one recording: `record(step)` records the work once; every arena tensor it makes is freed before the next
 * repetition. Returns the milliseconds of one repetition from submit to the end of the GPU's work.
 */
export async function time(gpu, record) {
  let dispatches = 0;
  const once = async (repetitions) => {
    const step = gpu.step("bench");
    const made = [];
    for (const method of ["tensor", "upload"]) {
      const make = step[method].bind(step);
      step[method] = (...args) => {
        made.push(make(...args));
        return made.at(-1);
      };
    }
    for (let i = 0; i < repetitions; i++) {
      record(step);
      for (const tensor of made.splice(0)) step.free(tensor);
      if (i === 0) dispatches = step.dispatches;
    }
    const start = performance.now();
    await step.submit();
    return (performance.now() - start) / repetitions;
  };
  await once(1); // Compiles.
  const estimate = Math.min(await once(1), await once(1));
  const repetitions = Math.min(MOST_REPETITIONS, Math.max(1, Math.round(ROUND_MS / estimate)));
  const times = [];
  for (let round = 0; round < ROUNDS; round++) times.push(await once(repetitions));
  times.sort((a, b) => a - b);
  return { median: times[ROUNDS >> 1], least: times[0], most: times[ROUNDS - 1], repetitions, dispatches };
}

/**
 * What the device can do at most: `gflops` of f32 multiply-adds from registers, `matrixGflops` of f16 ones on tensor cores
 * (null without any), `gbytes` of a copy (read and written; the
 * faster of a copying kernel and the device's own copy), and what dispatches and submits cost.
 */
export async function measureLimits(gpu) {
  const lanes = gpu.software ? 256 * 64 : 16384 * 64;
  const turns = 256;
  const y = gpu.parameter([lanes]);
  const fma = await time(gpu, (step) => {
    step.run(laser.kernels.limits_fma, {
      bindings: { y },
      params: { turns, factor: 0.999, addend: 0.001 },
      workgroups: [lanes / 64],
    });
  });
  gpu.release(y);
  const bytes = Math.min(gpu.maxBindingBytes, (gpu.software ? 32 : 256) * 2 ** 20) & -16;
  const from = gpu.parameter([bytes / 4]);
  const to = gpu.parameter([bytes / 4]);
  const copy = await time(gpu, (step) => {
    step.run(laser.kernels.limits_copy, {
      bindings: { x: from, y: to },
      params: { count: bytes / 16 },
      workgroups: laser.gridOf(bytes / 16 / 64),
    });
  });
  const transfer = await time(gpu, (step) => {
    step.copy(from, to);
  });
  gpu.release(from);
  gpu.release(to);
  return {
    gflops: (lanes * turns * 4 * 12 * 2) / fma.median / 1e6,
    matrixGflops: await matrixLimit(gpu),
    gbytes: (2 * bytes) / Math.min(copy.median, transfer.median) / 1e6,
    kernelGbytes: (2 * bytes) / copy.median / 1e6,
    dispatch: await overhead(gpu),
  };
}

/** GFLOP/s of subgroup matrices that stay in registers, or null where there are none. */
async function matrixLimit(gpu) {
  const matrix = gpu.offeredMatrix;
  if (!matrix) return null;
  const groups = gpu.software ? 8 : 1024;
  const turns = gpu.software ? 16 : 1024;
  const { rows, columns, depth } = matrix;
  const y = gpu.parameter([groups * 64 * rows * columns]);
  const kernel = laser.variantOf(laser.kernels.limits_matrix, laser.onMatrices(matrix));
  const { median } = await time(gpu, (step) => {
    step.run(kernel, { bindings: { y }, params: { turns, left: 0.5, right: 0.25 }, workgroups: [groups] });
  });
  gpu.release(y);
  return (groups * 64 * turns * 2 * rows * columns * depth) / median / 1e6;
}

/** Milliseconds of one more empty dispatch in a step, and of a submit with its wait. */
async function overhead(gpu) {
  const y = gpu.parameter([64]);
  const record = (step) => {
    step.run(laser.kernels.limits_fma, {
      bindings: { y },
      params: { turns: 0, factor: 1, addend: 0 },
      workgroups: [1],
    });
  };
  const many = await time(gpu, record);
  const times = [];
  for (let i = 0; i < 21; i++) {
    const step = gpu.step("bench");
    record(step);
    const start = performance.now();
    await step.submit();
    times.push(performance.now() - start);
  }
  gpu.release(y);
  return { each: many.median, submitAndWait: times.sort((a, b) => a - b)[10] };
}

/** Opens the adapter and measures its limits. */
export async function open(title) {
  let gpu;
  try {
    gpu = await laser.Gpu.open({ adapter });
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
  const limits = await measureLimits(gpu);
  const results = [];
  if (!json) {
    console.log(`${title}\n${settings(gpu)}`);
    const matrices = limits.matrixGflops
      ? `, ${limits.matrixGflops.toFixed(1)} GFLOP/s of f16 on subgroup matrices`
      : "";
    console.log(
      `limits measured now: ${limits.gflops.toFixed(1)} GFLOP/s of f32 multiply-adds, ${limits.gbytes.toFixed(1)} GB/s of a copy${matrices}`,
    );
  }
  return {
    gpu,
    limits,
    results,
    /**
     * Times one case and prints its line. `cost`: operations and bytes of one repetition, those that the work needs at
     * least, and whether tensor cores do it (`matrices`). The share is of the limit that binds: the larger of the two.
     */
    async run(name, cost, record) {
      const timing = await time(gpu, record);
      const result = { name, ...timing, ...rates(cost, timing.median, limits) };
      if (!json && results.length === 0) console.log(HEADING);
      results.push(result);
      if (!json) console.log(line(result));
      return result;
    },
    /** Prints what remains and closes the device. */
    async finish(extra = {}) {
      if (json) {
        const about = { title, date: new Date().toISOString().slice(0, 10), settings: settings(gpu), limits };
        console.log(JSON.stringify({ ...about, rounds: ROUNDS, ...extra, results }, null, 2));
      }
      gpu.close();
    },
  };
}

/** Adapter and what changes its speed. */
function settings(gpu) {
  const fast = process.env.LASER_FAST === "1";
  const toggles = fast
    ? "LASER_FAST=1: skip_validation, disable_robustness, disable_workgroup_init"
    : "default toggles (robustness on)";
  const width = process.env.LP_NATIVE_VECTOR_WIDTH;
  return [gpu.adapterName, toggles, width && `LP_NATIVE_VECTOR_WIDTH=${width}`, "f32 sums"]
    .filter(Boolean)
    .join("; ");
}

function rates({ flops = 0, bytes = 0, matrices = false }, milliseconds, limits) {
  const gflops = flops / milliseconds / 1e6;
  const gbytes = bytes / milliseconds / 1e6;
  const mostGflops = matrices ? limits.matrixGflops : limits.gflops;
  return { gflops, gbytes, share: Math.max(gflops / mostGflops, gbytes / limits.gbytes) };
}

const HEADING = `\n${"".padEnd(66)}${"ms".padStart(10)}${"least .. most".padStart(24)}${"GFLOP/s".padStart(9)}${"GB/s".padStart(8)}   limit`;

function line({ name, median, least, most, gflops, gbytes, share }) {
  const rate = (value) => (value ? value.toFixed(2) : "-");
  const range = `${least.toFixed(3)} .. ${most.toFixed(3)}`;
  const percent = share ? `${(100 * share).toFixed(0)} %` : "-";
  return `${name.padEnd(66)}${median.toFixed(3).padStart(10)}${range.padStart(24)}${rate(gflops).padStart(9)}${rate(gbytes).padStart(8)}${percent.padStart(8)}`;
}
