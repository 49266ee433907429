// A short stay on a machine, in the order that settles most: node bench/stay.js OUT [--quick] [--adapter=NAME]
//
// What the adapter is; whether every kernel and dump is right there; what it can do at most; the ladders; the other
// benchmarks. Each part is written to the folder OUT as soon as it ends (NAME.json, the tests' output NAME.txt), so that a
// stay that is cut short keeps what it had; one that fails, or takes longer than ten minutes, is named and the next begins.
// `node build.mjs --tests` first. The machine's files go to bench/results with adapter and date.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const [out, ...flags] = process.argv.slice(2);
if (!out || out.startsWith("-")) {
  const [header] = readFileSync(fileURLToPath(import.meta.url), "utf8").split(/^(?!\/\/)/m);
  console.log(header.replace(/^\/\/ ?/gm, "").trimEnd());
  process.exit(out === "--help" || out === "-h" ? 0 : 1);
}
const unknown = flags.find((flag) => !/^--(quick|adapter=.+)$/.test(flag));
if (unknown) {
  console.error(`unknown option ${unknown}: it takes --quick and --adapter=NAME`);
  process.exit(1);
}
const root = fileURLToPath(new URL("../", import.meta.url));
for (const needed of ["dist/index.js", "dist/test"]) {
  if (existsSync(join(root, needed))) continue;
  console.error(`${needed} is missing: run \`node build.mjs --tests\` first`);
  process.exit(1);
}
const quick = flags.includes("--quick");
const adapter = flags.find((flag) => flag.startsWith("--adapter="))?.slice("--adapter=".length);
const env = adapter ? { ...process.env, LASER_ADAPTER: adapter } : process.env;
const TEN_MINUTES = 600_000;
/** Kernels, each against float64, then all dumps of PyTorch. */
const TESTS = [
  "product",
  "attention",
  "pack-",
  "mixed-precision",
  "item-set",
  "norm",
  "rope",
  "router",
  "activation",
  "convert-weights",
  "gpu-layer",
  "compare-",
];
const BENCHES = [
  "limits",
  "ladder",
  "product",
  "attention",
  "cosine",
  "router",
  "memory",
  "load",
  "frozen",
  "encode",
  "step",
];

mkdirSync(out, { recursive: true });

async function adapterReport() {
  const { Gpu } = await import("../dist/index.js");
  const gpu = await Gpu.open({ adapter });
  const { limits } = gpu.device;
  const named = {};
  for (const name in limits) if (typeof limits[name] === "number") named[name] = limits[name];
  const { adapterName, software, features, offeredMatrix, subgroupMatrix, sharedSubgroup } = gpu;
  gpu.close();
  const date = new Date().toISOString();
  return {
    date,
    adapterName,
    software,
    features: [...features],
    offeredMatrix,
    subgroupMatrix,
    sharedSubgroup,
    limits: named,
  };
}

/** Runs a program of this project; its output is written whatever its end. */
function run(name, args, extension) {
  const started = performance.now();
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: root,
    env,
    encoding: "utf8",
    timeout: TEN_MINUTES,
    maxBuffer: 2 ** 26,
  });
  writeFileSync(join(out, `${name}.${extension}`), stdout);
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  if (status === 0) return console.log(`${name}: ${seconds} s`);
  writeFileSync(join(out, `${name}.error.txt`), stderr);
  console.log(
    `${name}: FAILED after ${seconds} s (${signal ?? `exit code ${status}`}), see ${name}.error.txt`,
  );
  process.exitCode = 1;
}

try {
  const report = await adapterReport();
  writeFileSync(join(out, "adapter.json"), `${JSON.stringify(report, null, 2)}\n`);
  console.log(report.adapterName);
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
run("tests", ["test/run.mjs", ...(quick ? ["product-matrix", "compare-kernels"] : TESTS)], "txt");
for (const name of BENCHES) run(name, [`bench/${name}.js`, "--json", ...(quick ? ["--quick"] : [])], "json");
