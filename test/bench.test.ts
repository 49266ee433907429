/** Every benchmark but the products' (longest) runs by itself to its end, checks what it times and prints the JSON it promises. */
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { itemSetWays } from "./item-set-ways.ts";
import { repositoryPath } from "./shared.ts";
import { temporaryFolder } from "./temporary.ts";

interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(file: string, flags: readonly string[], cwd?: string): Promise<Finished> {
  const child = spawn(process.execPath, [file, ...flags], { cwd, stdio: ["ignore", "pipe", "pipe"] });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (piece) => {
    stdout += piece;
  });
  child.stderr.on("data", (piece) => {
    stderr += piece;
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
}

type Json = Readonly<Record<string, unknown>>;

/** Fails unless every path of an object ("record.median") holds a finite number above zero. */
function assertPositive(object: Json, paths: readonly string[]): void {
  for (const path of paths) {
    let value: unknown = object;
    for (const key of path.split(".")) value = (value as Json)[key];
    assert.ok(
      typeof value === "number" && Number.isFinite(value) && value > 0,
      `${path} is ${String(value)}`,
    );
  }
}

const TIMES = ["median", "least", "most"];
const RATES = ["tokens", "tokensPerSecond", "gflops", "share", "dispatches"];

interface Expected {
  readonly results: number;
  readonly orMore?: boolean;
  readonly paths: readonly string[];
}

/** What a benchmark's results must hold, and how many there are. */
const EXPECTED: Readonly<Record<string, Expected>> = {
  limits: { results: 0, paths: [] },
  // Products by two versions and the naive one, frozen ones by two, attention (three cases) and the item set by one; more
  // where subgroups share loads.
  ladder: { results: 15, orMore: true, paths: ["gflops", "share", "dispatches"] },
  attention: { results: 4, paths: ["gflops", "share", "dispatches"] },
  router: { results: 3, paths: ["gflops", "gbytes", "share", "dispatches"] },
  // Norms by two versions, and by a third where subgroups share loads.
  memory: { results: 27, orMore: true, paths: ["gbytes", "share", "dispatches"] },
  cosine: { results: 6 * (await itemSetWays()).length, paths: ["gflops", "share", "dispatches"] },
  // Reading, and four storages by two versions, of three types.
  load: { results: 27, paths: ["gbytes", "share"] },
  frozen: { results: 8, paths: RATES },
  encode: { results: 4, paths: [...RATES, "items", "itemsPerSecond", "submits"] },
  step: {
    results: 1,
    paths: [
      ...RATES,
      ...["record", "gpu"].flatMap((part) => TIMES.map((time) => `${part}.${time}`)),
      ...["processor.record.median", "processor.gpu.median", "submits", "trainable", "gpuBytes", "loss.last"],
    ],
  },
};

const t = suite("bench");

for (const [name, { results: count, orMore = false, paths }] of Object.entries(EXPECTED)) {
  t(`${name} --quick --json`, async () => {
    const file = repositoryPath(`bench/${name}.js`);
    const { code, stdout, stderr } = await run(file, ["--quick", "--json"]);
    assert.is(code, 0, stderr);
    const report = JSON.parse(stdout) as Json;
    for (const key of ["title", "settings"]) assert.type(report[key], "string");
    assert.match(String(report.date), /^\d{4}-\d\d-\d\d$/);
    assertPositive(report, ["rounds", "limits.gflops", "limits.gbytes", "limits.dispatch.submitAndWait"]);
    assert.ok((report.rounds as number) >= 5, "a median of at least five");
    const results = report.results as readonly Json[];
    if (orMore) assert.ok(results.length >= count, `${results.length} results`);
    else assert.is(results.length, count);
    for (const result of results) {
      assert.type(result.name, "string");
      assertPositive(result, [...TIMES, ...paths]);
      const [median, least, most] = TIMES.map((key) => result[key] as number);
      assert.ok(least <= median && median <= most, `${least} <= ${median} <= ${most}`);
    }
    if (name === "step") assert.is(results[0].submits, 1, "a training step is one submit");
  });
}

t("--report draws how a training step grows, a panel a dimension", async () => {
  const folder = temporaryFolder();
  const { code, stderr } = await run(repositoryPath("bench/all.js"), ["--report", "--quick"], folder);
  assert.is(code, 0, stderr);
  const { results } = JSON.parse(readFileSync(join(folder, "runs", "bench", "growth.json"), "utf8"));
  const fields = (results as readonly { readonly field: string }[]).map(({ field }) => field);
  assert.equal(fields, ["longest", "items", "batch", "history"]);
  const svg = readFileSync(join(folder, "runs", "bench", "growth.svg"), "utf8");
  assert.is(svg.match(/class="median"/g)?.length, 4);
  // Every point of every curve is a circle, and no coordinate went wrong.
  const points = (results as readonly { readonly points: readonly Json[] }[]).flatMap(
    (curve) => curve.points,
  );
  for (const point of points) assertPositive(point, ["value", "tokens", ...TIMES]);
  assert.is(svg.match(/<circle /g)?.length, points.length);
  assert.not.match(svg, /NaN|undefined|Infinity/);
});

t("stay: needs a folder, knows its options, and names an adapter that is not there", async () => {
  const file = repositoryPath("bench/stay.js");
  const folder = temporaryFolder();
  const help = await run(file, []);
  assert.is(help.code, 1);
  assert.match(help.stdout, /^A short stay on a machine/);
  const unknown = await run(file, [folder, "--json"]);
  assert.is(unknown.code, 1);
  assert.match(unknown.stderr, /^unknown option --json: it takes --quick and --adapter=NAME$/m);
  const missing = await run(file, [folder, "--adapter=no such adapter"]);
  assert.is(missing.code, 1);
  assert.match(missing.stderr, /^adapter "no such adapter": /m);
  assert.not.match(missing.stderr, /^ +at /m);
});

t("full: a backbone from its files, its memory as planned", async () => {
  const directory = repositoryPath("test/reference/dumps/gpt2-tiny");
  const flags = [directory, "--batch", "2", "--tokens", "5", "--rounds", "1", "--prefix", "none"];
  const { code, stdout, stderr } = await run(repositoryPath("bench/full.js"), flags);
  assert.is(code, 0, stderr);
  assert.match(
    stdout,
    /^loaded in \d+\.\d s, \d+\.\d\d GB\/s of the files: .* of GPU memory; host memory grew by at most /m,
  );
  assert.match(stdout, /^a training step of 2 texts of 5 \+ 1 tokens: \d+\.\d+ s /m);
  const [, difference] = /^GPU memory: planned .*, held .* \((-?[\d.]+) %\)$/m.exec(stdout)!;
  assert.ok(Math.abs(Number(difference)) < 5, stdout);
});

t("--help says what is measured, an unknown option is refused", async () => {
  for (const name of [...Object.keys(EXPECTED), "product", "growth", "all"]) {
    const { code, stdout } = await run(repositoryPath(`bench/${name}.js`), ["--help"]);
    assert.is(code, 0);
    assert.match(stdout, name === "all" ? "npm run bench" : `node bench/${name}.js`);
    assert.match(stdout, "--quick");
    assert.not.match(stdout, "import");
  }
  for (const flag of ["--fast", "--report"]) {
    const { code, stderr } = await run(repositoryPath("bench/frozen.js"), [flag]);
    assert.is(code, 1);
    assert.match(stderr, new RegExp(`^unknown option ${flag}: [^\n]*\n$`));
  }
});

t("without dist/ there is one clear line and exit code 1", async () => {
  const folder = join(temporaryFolder(), "checkout");
  mkdirSync(folder);
  for (const part of ["bench", "weights/script.mjs"])
    cpSync(repositoryPath(part), join(folder, part), { recursive: true });
  assert.not(existsSync(join(folder, "dist")));
  for (const name of [...Object.keys(EXPECTED), "growth", "all", "full"]) {
    const { code, stdout, stderr } = await run(join(folder, "bench", `${name}.js`), []);
    assert.is(code, 1);
    assert.is(stdout, "");
    assert.is(stderr, "dist/ is missing: run `npm run build` first\n");
  }
});

t.run();
