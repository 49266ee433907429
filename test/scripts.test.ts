/** The scripts beside the `laser` command: their help, and one line for what they are not given rightly. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { repositoryPath } from "./shared.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("scripts");
const folder = temporaryFolder();

function run(script: string, ...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [repositoryPath(script), ...args], {
    encoding: "utf8",
  });
  // Dawn may warn when it opens the adapter.
  return { status, stdout, stderr: stderr.replace(/^Warning: .*\n/gm, "") };
}

for (const script of ["weights/make-random.mjs", "weights/make-shop-llama.mjs", "bench/full.js"]) {
  t(`${script} says what it does, and what it does not know`, () => {
    const help = run(script, "--help");
    assert.is(help.status, 0, help.stderr);
    assert.match(help.stdout, `node ${script}`);
    const unknown = run(script, "--unknown");
    assert.is(unknown.status, 1);
    assert.is(unknown.stderr, "Unknown option '--unknown'; see --help\n");
  });
}

t("what is given wrongly gets one line", () => {
  for (const [script, args, message] of [
    ["weights/make-random.mjs", ["gpt3", "--out", folder], /^usage: .* NAME: gpt2, .*; see --help\n$/],
    [
      "weights/make-random.mjs",
      ["gpt2", "--out", folder, "--seed", "a"],
      /^--seed a: expected a whole number above/,
    ],
    ["weights/make-shop-llama.mjs", ["--updates", "0"], /^--updates 0: expected a whole number above zero/],
    ["weights/make-shop-llama.mjs", ["--rate", "fast"], /^--rate fast: expected a learning rate above zero/],
    ["bench/full.js", [], /^usage: node bench\/full\.js DIR/],
    ["bench/full.js", [join(folder, "nowhere")], /nowhere\/config\.json: no such file or folder/],
  ] as const) {
    const { status, stdout, stderr } = run(script, ...args);
    assert.is(status, 1, `${script} ${args.join(" ")}`);
    assert.is(stdout, "");
    assert.match(stderr, message);
    assert.is(stderr.trimEnd().split("\n").length, 1, stderr);
  }
});

t.run();
