import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Comparison, passes } from "../src/eval/compare/compare.ts";
import { exactError, tensorError } from "../src/eval/compare/error.ts";
import { findDumps } from "../src/eval/compare/find-dumps.ts";
import { UserError } from "../src/files/user-error.ts";
import { changedDump, DUMPS } from "./dumps.ts";
import { openTestGpu } from "./gpu.ts";
import { assertUserError, laser } from "./laser-process.ts";
import { temporaryFolder } from "./temporary.ts";
import { ABSOLUTE_FLOOR } from "./tolerances.ts";

const t = suite("compare: what is wrong is said");
const gpu = await openTestGpu();
const comparison = new Comparison(gpu, "f32", DUMPS);
t.after(async () => {
  await comparison.release();
  gpu.close();
});

const folder = temporaryFolder();
const NORM = join(DUMPS, "rms_norm-1x7.safetensors");
const ROPE = join(DUMPS, "rope-half-8.safetensors");
const RANK = join(DUMPS, "rank-ties.safetensors");
const ADAM = join(DUMPS, "adam-plain.safetensors");
const BACKBONE = join(DUMPS, "backbone-llama-tiny-text-only.safetensors");
const STEP = join(DUMPS, "laser_step-mformer-normalized.safetensors");

const float = (name: string, shape: readonly number[]) => ({
  name,
  dtype: "F32" as const,
  shape,
  data: new Float32Array(shape.reduce((size, extent) => size * extent, 1)),
});

/** Declares that a changed dump is refused in one line that names the file and holds every part. */
function refuses(
  what: string,
  path: string,
  changes: Parameters<typeof changedDump>[2],
  ...parts: readonly string[]
): void {
  t(what, async () => {
    const wrong = await changedDump(path, folder, changes);
    try {
      await comparison.file(wrong);
    } catch (error) {
      assert.instance(error, UserError, String(error));
      const { message } = error as UserError;
      for (const part of [wrong, ...parts]) assert.ok(message.includes(part), `${message}\nlacks ${part}`);
      assert.not.match(message, "\n");
      return;
    }
    assert.unreachable(`${wrong} was compared`);
  });
}

const without = (name: string) => ({
  tensor: <T extends { name: string }>(tensor: T) => (tensor.name === name ? null : tensor),
});

refuses("an unknown output", NORM, { more: [float("dz", [7])] }, "tensor dz", "rms_norm");
refuses("an output of another step of Adam", ADAM, { more: [float("a9", [7, 13])] }, "tensor a9");
refuses("a parameter that the model lacks", STEP, { more: [float("p.prefix", [2, 32])] }, "tensor p.prefix");
refuses("an unknown kind", NORM, { kind: "lstm" }, '"lstm"', "rms_norm");
refuses("a kind that every object has", NORM, { kind: "toString" }, '"toString"');
refuses("a missing input", NORM, without("w"), "input w", "[D = 7]");
refuses("a missing gradient input", NORM, without("dy"), "input dy", "[R = 1, D = 7]");
refuses("a missing parameter", STEP, without("p.mformer.experts"), "p.mformer.experts", "[3, 2, 8]");
refuses(
  "a wrong input shape",
  NORM,
  { ...without("w"), more: [float("w", [6])] },
  "tensor w",
  "[6]",
  "[D = 7]",
);
refuses(
  "a wrong output shape",
  NORM,
  { ...without("y"), more: [float("y", [7])] },
  "tensor y",
  "[7]",
  "[R = 1",
);
refuses(
  "a wrong dtype",
  ROPE,
  { ...without("lengths"), more: [float("lengths", [3])] },
  "tensor lengths is F32, expected I32",
);
refuses("a missing param", NORM, { params: (params) => delete params.eps }, "params field eps", "missing");
refuses(
  "a wrong word",
  ROPE,
  { params: (params) => (params.layout = "spiral") },
  '"half" or "interleaved"',
  "spiral",
);
refuses(
  "lengths that do not add up",
  ROPE,
  {
    tensor: (tensor) =>
      tensor.name === "lengths" ? { ...tensor, data: (tensor.data as Int32Array).map((n) => n + 1) } : tensor,
  },
  "tensor lengths adds up to 21, expected 18",
);
refuses(
  "a target beyond the items",
  RANK,
  {
    tensor: (tensor) =>
      tensor.name === "target" ? { ...tensor, data: (tensor.data as Int32Array).map(() => 67) } : tensor,
  },
  "tensor target, element 0 is 67",
);
refuses(
  "a token beyond the vocabulary",
  BACKBONE,
  { tensor: (tensor) => (tensor.name === "ids" ? { ...tensor, data: new Int32Array(25).fill(97) } : tensor) },
  "tensor ids, element 0 is 97",
);
refuses(
  "a checkpoint that is nowhere",
  BACKBONE,
  { params: (params) => (params.checkpoint = "llama-huge") },
  "llama-huge",
  "--checkpoints",
);
refuses(
  "no output at all",
  NORM,
  { tensor: (tensor) => (["x", "w", "dy"].includes(tensor.name) ? tensor : null) },
  "no output",
);

t("the GPU goes on after a refused dump", async () => {
  assert.ok(passes(await comparison.file(NORM)));
});

t("one wrong value among many fails, and only its tensor", async () => {
  const wrong = await changedDump(RANK, folder, {
    tensor: (tensor) => {
      if (tensor.name !== "top") return tensor;
      const data = (tensor.data as Int32Array).slice();
      [data[8], data[9]] = [data[9], data[8]];
      return { ...tensor, data };
    },
  });
  const report = await comparison.file(wrong);
  const failed = report.tensors.filter((tensor) => tensor.skipped === undefined && !tensor.ok);
  assert.equal(
    failed.map(({ name }) => name),
    ["top"],
  );
});

t("after Adam, key biases are not compared and everything else is", async () => {
  const { tensors } = await comparison.file(STEP);
  const after = tensors.filter(({ name }) => name.startsWith("after3."));
  const skipped = after.filter((tensor) => tensor.skipped !== undefined).map(({ name }) => name);
  assert.ok(skipped.length >= 2);
  assert.ok(skipped.every((name) => name.endsWith("k.bias")));
  assert.is(after.filter(({ name }) => name.endsWith("k.bias")).length, skipped.length);
  assert.ok(after.length > 20);
});

t("errors are relative to the norm of the reference; NaN never passes", () => {
  const { absolute, relative, ok } = tensorError([3, 4.5], [3, 4], 0.1);
  assert.is(absolute, 0.5);
  assert.is(relative, 0.1);
  assert.ok(ok);
  assert.not.ok(tensorError([3, 4.6], [3, 4], 0.1).ok);
  for (const values of [
    [Number.NaN, 4],
    [3, Number.NaN],
  ]) {
    const error = tensorError(values, [3, 4], 1e9);
    assert.not.ok(error.ok);
    assert.ok(Number.isNaN(error.absolute));
    assert.not.ok(exactError(values, [3, 4]).ok);
  }
  assert.not.ok(tensorError([Number.NaN, 0], [0, 0], 1).ok);
  assert.ok(exactError([3, 4], [3, 4]).ok);
  assert.not.ok(exactError([3, 4.5], [3, 4]).ok);
});

t("a reference that is zero in theory has an absolute floor, others have none", () => {
  assert.ok(tensorError([5e-7, -5e-7], [0, 1e-17], 1e-5).ok);
  assert.not.ok(tensorError([3 * ABSOLUTE_FLOOR, 0], [0, 0], 1e-5).ok);
  assert.not.ok(tensorError([1.1e-5, 1e-5], [1e-5, 1e-5], 1e-5).ok);
});

t("directories are searched, without checkpoints", async () => {
  const root = temporaryFolder();
  for (const part of ["b/model", "a"]) mkdirSync(join(root, part), { recursive: true });
  for (const file of [
    "b/model/config.json",
    "b/model/model.safetensors",
    "b/2.safetensors",
    "a/1.safetensors",
  ]) {
    writeFileSync(join(root, file), "");
  }
  writeFileSync(join(root, "b/notes.txt"), "");
  assert.equal(await findDumps([root]), [join(root, "a/1.safetensors"), join(root, "b/2.safetensors")]);
  for (const [path, part] of [
    [join(root, "nowhere"), "no such file"],
    [join(root, "b/model"), "it is a checkpoint"],
  ]) {
    try {
      await findDumps([path]);
      assert.unreachable(`${path} was accepted`);
    } catch (error) {
      assert.instance(error, UserError);
      assert.match((error as UserError).message, part);
    }
  }
});

t("the command: exit codes, text, JSON", async () => {
  const good = await laser(["compare", NORM], folder);
  assert.is(good.code, 0, good.stderr);
  assert.match(good.stdout, /dx .*absolute .*relative .*tolerance 1e-5 +ok/);
  assert.match(good.stdout, "0 tensors FAIL, 0 files with errors");

  const moved = await changedDump(NORM, folder, {
    tensor: (tensor) =>
      tensor.name === "dx"
        ? { ...tensor, data: (tensor.data as Float32Array).map((x) => x * 1.001) }
        : tensor,
  });
  const failed = await laser(["compare", "--json", moved], folder);
  assert.is(failed.code, 1);
  const { summary, files } = JSON.parse(failed.stdout);
  assert.is(summary.failed, 1);
  assert.is(files[0].tensors.find(({ name }: { name: string }) => name === "dx").ok, false);

  const unknown = await changedDump(NORM, folder, { kind: "lstm" });
  const both = await laser(["compare", unknown, ROPE], folder);
  assertUserError(both, unknown, "lstm");
  assert.match(both.stdout, "2 files, 2 tensors compared");
});

t.run();
