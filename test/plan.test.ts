import { copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { PUBLISHED } from "../src/llm/published.ts";
import { assertUserError, laser, laserOk } from "./laser-process.ts";
import { repositoryPath } from "./shared.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("laser plan");
const folder = temporaryFolder();

const UNITS: Readonly<Record<string, number>> = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };

/** The printed parts and their sum, in bytes. */
function partsOf(stdout: string): Map<string, number> {
  const lines = stdout.split("\n").filter((line) => /^ +\d/.test(line));
  return new Map(
    lines.map((line) => {
      const [, value, unit, name] = /^ +([\d.]+) (\S+) {2}(.*)$/.exec(line)!;
      return [name, Number(value) * UNITS[unit]];
    }),
  );
}

t("every published name, without its files: the parts add up", async () => {
  // Without an adapter: SwiftShader's buffers cannot hold every published embedding table, and plan would say so.
  const asked = process.env.LASER_ADAPTER;
  delete process.env.LASER_ADAPTER;
  const weights = new Map<string, number>();
  for (const name of ["gpt2", "chatglm2", "llama3", "qwen3"]) {
    assert.ok(name in PUBLISHED);
    const parts = partsOf(await laserOk(["plan", "--backbone", name], folder));
    const together = parts.get("together")!;
    const sum = [...parts.values()].reduce((a, b) => a + b, 0) - together;
    assert.ok(Math.abs(sum - together) < 0.01 * together, `${name}: ${sum} is not ${together}`);
    weights.set(name, parts.get("backbone weights")!);
  }
  if (asked !== undefined) process.env.LASER_ADAPTER = asked;
  assert.equal([...weights.keys()].sort((a, b) => weights.get(a)! - weights.get(b)!)[0], "gpt2");
});

t("a directory with a config.json alone; the flags of hyper-parameters count", async () => {
  const directory = join(folder, "only-config");
  mkdirSync(directory);
  copyFileSync(repositoryPath("test/reference/dumps/gpt2-tiny/config.json"), join(directory, "config.json"));
  const plan = async (...flags: string[]) =>
    partsOf(
      await laserOk(
        ["plan", "--backbone", directory, "--tokens", "20", "--query-tokens", "4", ...flags],
        folder,
      ),
    );
  const one = await plan("--items", "1000");
  const two = await plan("--items", "2000", "--batch-size", "8");
  // Figures are printed to a tenth.
  for (const part of ["item embeddings", "kept layer inputs"]) {
    const ratio = two.get(part)! / one.get(part)!;
    assert.ok(ratio > 1.98 && ratio < 2.02, `${part}: ${ratio}`);
  }
  const free = await plan("--ablation", "no-mformer");
  assert.ok(free.get("trainable parameters and optimiser")! < 2 ** 14);
});

t("on an adapter, with the data's own texts", async () => {
  const stdout = await laserOk(["plan", "--data", "shop", "--adapter", "auto"], folder);
  assert.match(stdout, /^embedded \(LlamaForCausalLM\): 177,280 frozen weights; f32 692\.5 KiB, f16 /);
  assert.match(stdout, /400 items, weights in f16, on (?!any GPU).+:\n/);
});

t("what cannot be planned is one line", async () => {
  const refused = async (...flags: string[]) => laser(["plan", ...flags], folder);
  assertUserError(
    await refused("--backbone", "mistral", "--tokens", "4096"),
    "--tokens 4096: with the 33 tokens that Laser adds, this MistralForCausalLM reads at most 4096 (its sliding_window)",
  );
  assertUserError(await refused("--data", "shop", "--tokens", "5"), "leave them out");
  assertUserError(await refused("--tokens", "0"), "--tokens");
  assertUserError(await refused("--backbone", "nothing"), "backbone nothing: no such directory");
  assertUserError(await refused("--recommender", "nothing"), "--recommender nothing");
});

t.run();
