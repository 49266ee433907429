// The measured tables of the documentation, from bench/results: node bench/pages.js [--write]
//
// A page asks for one with two comments; what stands between them is made from the file:
//
//   <!-- measured ladder-lavapipe-2026-11-22.json: causal attention -->
//   <!-- end measured -->
//
// The file is what a benchmark prints with --json, named NAME-ADAPTER-DATE.json; behind the colon may stand a regular expression
// that the names of the results must match. Without --write, pages that differ from their files are named: exit code 1.
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { spread } from "./spread.js";

const root = fileURLToPath(new URL("../", import.meta.url));
const results = join(root, "bench", "results");
const write = process.argv.includes("--write");
const unknown = process.argv.slice(2).find((flag) => flag !== "--write");
if (unknown) {
  console.error(`unknown option ${unknown}: it takes --write`);
  process.exit(1);
}

/** Three digits, or as many as whole numbers have. */
const digits = (value) => (value >= 99.95 ? value.toFixed(0) : value.toPrecision(value < 0.995 ? 2 : 3));
const rate = (value) => (value > 0.005 ? digits(value) : "-");
const percent = (value) => `${Math.round(100 * value)} %`;
const ms = ({ median, least, most }) => `${digits(median)} (${digits(least)} .. ${digits(most)})`;
const tenths = (value) => value.toFixed(1);
const whole = (value) => Math.round(value).toLocaleString("en-US");
const plain = [
  ["work", ({ name }) => name.replace(/ {2,}/g, " ")],
  ["ms (least .. most)", ms],
  ["GFLOP/s", ({ gflops }) => rate(gflops)],
  ["of the limit", ({ share }) => percent(share)],
];
const tokens = [
  ...plain.slice(0, 2),
  ["tokens/s", ({ tokensPerSecond }) => whole(tokensPerSecond)],
  ...plain.slice(2),
  ["dispatches", ({ dispatches }) => dispatches],
];
/** The columns of each benchmark's table: heading, and cell of a result. */
const TABLES = {
  product: plain,
  attention: plain,
  cosine: plain,
  frozen: tokens,
  encode: [...tokens, ["submits", ({ submits }) => submits]],
  step: [
    ...tokens,
    ["recording, ms", ({ record }) => ms(record)],
    ["GPU memory, MiB", ({ gpuBytes }) => whole(gpuBytes / 2 ** 20)],
  ],
  router: [
    ...plain.slice(0, 1),
    ["dispatches", ({ dispatches }) => dispatches],
    ...plain.slice(1, 3),
    ["GB/s", ({ gbytes }) => rate(gbytes)],
  ],
  memory: [
    ["kernel", ({ name }) => name],
    ...plain.slice(1, 3),
    ["GB/s", ({ gbytes }) => rate(gbytes)],
    ["of a copying kernel's rate", ({ gbytes }, { limits }) => percent(gbytes / limits.kernelGbytes)],
  ],
  ladder: [
    ["work", (result, _, before) => (before && workOf(before) === workOf(result) ? "" : workOf(result))],
    ["version", ({ name }) => versionOf(name)],
    ...plain.slice(1),
    ["times the first", (result, report) => digits(firstOf(result, report).median / result.median)],
  ],
  load: [
    ...plain.slice(0, 2),
    ["GB/s of the file", ({ gbytes }) => digits(gbytes)],
    ["of reading's rate", ({ share }) => percent(share)],
  ],
};

/** What an engine of bench/peers took, or why it has no time. */
function engine(name) {
  return ({ entries }) => {
    const { times, none } = entries.find((entry) => entry.engine === name);
    return times.length ? ms(spread(times)) : none ? "none" : "no right answer";
  };
}
TABLES.peers = [
  ["work", (result) => result.case.name],
  ["ours, ms (least .. most)", engine("laser")],
  ["onnxruntime-node", engine("onnxruntime")],
  ["@jax-js/jax", engine("jax")],
  [
    "ratio",
    ({ verdict }) => `${tenths(verdict.ratio)} (${tenths(verdict.least)} .. ${tenths(verdict.most)})`,
  ],
  ["of processor time", ({ verdict }) => tenths(verdict.processor)],
  ["asked", ({ verdict }) => verdict.target],
];

/** A ladder's results are named "work: version". */
const workOf = ({ name }) => name.slice(0, name.lastIndexOf(": "));
const versionOf = (name) =>
  name.slice(name.lastIndexOf(": ") + 2).replace(/[a-z]+(_([a-z]+|\*))+|^product\b/g, "`$&`");
const firstOf = (result, { results }) => results.find((other) => workOf(other) === workOf(result));

/** Lines of at most 125 characters. */
function wrapped(text) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1).length + 1 + word.length > 125) lines.push(word);
    else lines[lines.length - 1] += lines.at(-1) ? ` ${word}` : word;
  }
  return lines.join("\n");
}

/** What a page shows of a file: when and where it was measured, the limits of that run, a table. */
function block(page, file, pattern) {
  const path = join(results, file);
  if (!existsSync(path)) throw new Error(`${page}: bench/results/${file} is missing`);
  const report = JSON.parse(readFileSync(path, "utf8"));
  const columns = TABLES[file.slice(0, file.indexOf("-"))];
  if (!columns) throw new Error(`${page}: bench/pages.js has no table for ${file}`);
  const about = wrapped(
    `${report.date}, ${report.settings ?? report.engines[0].adapter}. Medians of ${report.rounds} rounds. ${limitsOf(report)}Raw: [${file}](${relative(dirname(page), path)}).`,
  );
  const shown = report.results.filter(({ name }) => !pattern || new RegExp(pattern).test(name));
  if (shown.length === 0) throw new Error(`${page}: no result of ${file} matches ${pattern}`);
  const row = (cells) => `| ${cells.join(" | ")} |`;
  const table = [
    row(columns.map(([heading]) => heading)),
    `|${"---|".repeat(columns.length)}`,
    ...shown.map((result, i) => row(columns.map(([, cell]) => cell(result, report, shown[i - 1])))),
  ];
  return `${about}\n\n${table.join("\n")}`;
}

/** A sentence on the limits that were measured in the same run; bench/peers measures none. */
function limitsOf({ limits }) {
  if (!limits) return "";
  const { gflops, matrixGflops, gbytes, kernelGbytes } = limits;
  const matrices = matrixGflops ? `, ${digits(matrixGflops)} of f16 ones on subgroup matrices` : "";
  return `Limits of that run: ${digits(gflops)} GFLOP/s of f32 multiply-adds${matrices}, ${digits(gbytes)} GB/s of a copy (${digits(kernelGbytes)} by a kernel). `;
}

function pages(folder) {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return pages(path);
    return entry.name.endsWith(".md") ? [path] : [];
  });
}

const MEASURED = /(<!-- measured (\S+?)(?:: (.+?))? -->\n)[\s\S]*?(<!-- end measured -->)/g;
let blocks = 0;
try {
  for (const name of pages("docs")) {
    const page = join(root, name);
    const before = readFileSync(page, "utf8");
    const after = before.replace(MEASURED, (_, begin, file, pattern, end) => {
      blocks++;
      return `${begin}${block(page, file, pattern)}\n${end}`;
    });
    if (after === before) continue;
    if (write) writeFileSync(page, after);
    else {
      console.error(`${name} is not what bench/results say: run node bench/pages.js --write`);
      process.exitCode = 1;
    }
  }
  console.log(`${blocks} tables of bench/results`);
} catch (error) {
  console.error(error.message.replaceAll(root, ""));
  process.exitCode = 1;
}
