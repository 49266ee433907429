import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { openSafetensors, type TensorToWrite, writeSafetensors } from "../src/files/safetensors.ts";
import { assertUserError, laser, laserOk } from "./laser-process.ts";
import { temporaryFolder } from "./temporary.ts";
import { TINY_LLAMA, TINY_PRETRAIN, TINY_TRAIN, writeTinyBackbone, writeTinyData } from "./tiny-job.ts";

const t = suite("bad input");
const home = temporaryFolder();
const DATA = "runs/data/data";

t.before(async () => {
  writeTinyData(join(home, "data"));
  await writeTinyBackbone(join(home, "backbone"));
  await laserOk(["data", "data"], home);
  await laserOk(["pretrain", "--data", DATA, "--out", "recommender", ...TINY_PRETRAIN], home);
});

/** `laser train` on the tiny job with other flags; later flags win. */
const trainWith = (...flags: string[]) =>
  laser(
    [
      "train",
      "--data",
      DATA,
      "--backbone",
      "backbone",
      "--recommender",
      "recommender",
      ...TINY_TRAIN,
      ...flags,
    ],
    home,
  );

/** A copy of the backbone, changed. Returns its name. */
async function brokenBackbone(name: string, change: (tensors: TensorToWrite[]) => void): Promise<string> {
  const folder = join(home, name);
  cpSync(join(home, "backbone"), folder, { recursive: true });
  const path = join(folder, "model.safetensors");
  const tensors: TensorToWrite[] = [];
  await using file = await openSafetensors(path);
  for (const [tensor, { dtype, shape }] of file.tensors) {
    tensors.push({ name: tensor, dtype, shape, data: await file.float32(tensor) });
  }
  change(tensors);
  await writeSafetensors(path, tensors);
  return name;
}

t("data that is missing, damaged or too small", async () => {
  assertUserError(await laser(["data", "nowhere"], home), "nowhere", "no such file or folder");
  assertUserError(await trainWith("--data", "nowhere"), "nowhere", "laser data");

  const folder = join(home, "one-user");
  mkdirSync(folder);
  const rows = Array.from({ length: 6 }, (_, n) => `only,item-${n % 2},${n}`);
  writeFileSync(join(folder, "interactions.csv"), `user,item,timestamp\n${rows.join("\n")}\n`);
  writeFileSync(join(folder, "items.csv"), "item,title\nitem-0,Tea\nitem-1,Pot\n");
  assertUserError(await laser(["data", "one-user", "--core", "0"], home), "1 user", "at least 2 users");

  const amazon = join(home, "amazon");
  mkdirSync(amazon);
  const review = JSON.stringify({ reviewerID: "A", asin: "B", unixReviewTime: 1 });
  const reviews = gzipSync(`${review}\n`.repeat(5000));
  writeFileSync(join(amazon, "meta_Toys.json.gz"), gzipSync('{"asin":"B","title":"Tea"}\n'));
  writeFileSync(join(amazon, "Toys_5.json.gz"), reviews.subarray(0, reviews.length - 30));
  assertUserError(await laser(["data", "amazon"], home), "Toys_5.json.gz", "gzip");
  writeFileSync(join(amazon, "Toys_5.json.gz"), gzipSync(`${review}\n${"{broken\n".repeat(50)}`));
  assertUserError(
    await laser(["data", "amazon"], home),
    "Toys_5.json.gz",
    "50 of 51 records are malformed",
    "line 2",
  );

  const noTitles = join(home, "no-titles");
  cpSync(join(home, "data"), noTitles, { recursive: true });
  const items = readFileSync(join(noTitles, "items.csv"), "utf8").replace(/,(Tea|Cup|Pot|Jar) \d+,/g, ",,");
  writeFileSync(join(noTitles, "items.csv"), items);
  assertUserError(await laser(["data", "no-titles"], home), "no title");
});

t("a prepared folder that was changed", async () => {
  const folder = join(home, "changed-data");
  cpSync(join(home, DATA), folder, { recursive: true });
  const path = join(folder, "dataset.jsonl");
  writeFileSync(path, readFileSync(path, "utf8").replace("Tea 0", "Tee 0"));
  assertUserError(await trainWith("--data", "changed-data"), "dataset.jsonl", "hash");
});

t("flags, presets and config files", async () => {
  assertUserError(await trainWith("--preset", "fast"), "--preset fast", "paper and authors");
  assertUserError(await trainWith("--learning-rate", "fast"), "--learning-rate", "expected a number");
  assertUserError(await trainWith("--gates", "sum"), "--gates", "weights, softmax, normalized");
  assertUserError(await trainWith("--active-experts", "4"), "activeExperts is 4", "experts");
  assertUserError(await laser(["pretrain", "--epochs", "none"], home), "--epochs", "epochs is", "none");
  assertUserError(await laser(["evaluate"], home), "no run under");
  assertUserError(await laser(["train", "--unknown"], home), "--unknown");
  assertUserError(await laser(["nonsense"], home), "nonsense");
  assertUserError(await laser(["recommend", "nowhere"], home), "--user");

  writeFileSync(join(home, "config.json"), '{"learningrate": 0.1}');
  assertUserError(
    await trainWith("--config", "config.json"),
    "config.json",
    'unknown field "learningrate"',
    "learningRate",
  );
  writeFileSync(join(home, "config.json"), '{"dropout": 2}');
  assertUserError(await trainWith("--config", "config.json"), "config.json", "dropout is 2");
  writeFileSync(join(home, "config.json"), "{");
  assertUserError(await trainWith("--config", "config.json"), "config.json", "not valid JSON");
});

t("backbones that are missing, cut off, or not what their config says", async () => {
  assertUserError(await trainWith("--backbone", "nowhere"), "nowhere", "no such directory");

  const cut = join(home, "cut");
  cpSync(join(home, "backbone"), cut, { recursive: true });
  truncateSync(join(cut, "model.safetensors"), 3000);
  assertUserError(await trainWith("--backbone", "cut"), "cut/model.safetensors");

  const shape = await brokenBackbone("shape", (tensors) => {
    const tensor = tensors.find(({ name }) => name === "model.layers.1.self_attn.k_proj.weight")!;
    Object.assign(tensor, { shape: [...tensor.shape].reverse() });
  });
  assertUserError(
    await trainWith("--backbone", shape),
    "model.layers.1.self_attn.k_proj.weight",
    /8, ?16/,
    /16, ?8/,
  );

  const dtype = await brokenBackbone("dtype", (tensors) => {
    const tensor = tensors.find(({ name }) => name === "model.norm.weight")!;
    Object.assign(tensor, { dtype: "I64", data: new BigInt64Array(16) });
  });
  assertUserError(await trainWith("--backbone", dtype), "model.norm.weight", "I64", "F32");

  const overlap = join(home, "overlap");
  cpSync(join(home, "backbone"), overlap, { recursive: true });
  const path = join(overlap, "model.safetensors");
  const bytes = readFileSync(path);
  const header = 8 + Number(bytes.readBigUInt64LE(0));
  const text = bytes.subarray(8, header).toString();
  const [, offsets] = /"data_offsets":\[(\d+,\d+)\]/.exec(text)!;
  const shifted = text.replace(
    `[${offsets}]`,
    `[${offsets.replace(/\d$/, (d) => String((Number(d) + 4) % 10))}]`,
  );
  bytes.write(shifted, 8);
  writeFileSync(path, bytes);
  assertUserError(await trainWith("--backbone", "overlap"), "overlap/model.safetensors");

  const config = join(home, "gpt2");
  cpSync(join(home, "backbone"), config, { recursive: true });
  writeFileSync(
    join(config, "config.json"),
    JSON.stringify({ ...TINY_LLAMA, architectures: ["T5ForConditionalGeneration"] }),
  );
  assertUserError(await trainWith("--backbone", config), "T5ForConditionalGeneration", "LlamaForCausalLM");
});

t("NaN weights are found while loading, and leave no run behind", async () => {
  const nan = await brokenBackbone("nan", (tensors) => {
    const tensor = tensors.find(({ name }) => name === "model.layers.0.mlp.up_proj.weight")!;
    (tensor.data as Float32Array)[5] = Number.NaN;
  });
  assertUserError(
    await trainWith("--backbone", nan, "--run", "nan-run"),
    "model.layers.0.mlp.up_proj.weight, element 5 is NaN",
  );
  assert.not(existsSync(join(home, "nan-run")));
});

t("what cannot fit is refused before it is loaded", async () => {
  assertUserError(
    await trainWith("--mformer-width", "65536"),
    "trainable parameters and optimiser of this run cannot be had on this adapter",
    "use a smaller --mformer-width",
  );
});

t("a folder that holds something already", async () => {
  mkdirSync(join(home, "mine"));
  writeFileSync(join(home, "mine/letter.txt"), "Dear reader");
  assertUserError(await trainWith("--run", "mine"), "mine already holds files", "letter.txt");
  assert.is(readFileSync(join(home, "mine/letter.txt"), "utf8"), "Dear reader");
  assertUserError(await laser(["train", "--resume", "mine"], home), "mine is not the folder of a run");
  assertUserError(await laser(["evaluate", "mine"], home), "mine is not the folder of a run");
});

/** Trains until the disk is full, checks what is left, gives it room and goes on to the same bytes. */
async function fillsUp(run: string, wrapper: string | undefined, makeRoom: () => void): Promise<void> {
  if (!existsSync(join(home, "whole"))) {
    const whole = await trainWith("--run", "whole");
    assert.is(whole.code, 0, whole.stderr);
  }
  const args = ["train", "--data", DATA, "--backbone", "backbone", "--recommender", "recommender"];
  const full = await laser([...args, ...TINY_TRAIN, "--run", run], home, wrapper);
  assertUserError(full, "checkpoint.safetensors", "the disk is full");
  // What was checkpointed before is whole: it opens, and nothing half-written lies beside it.
  const file = await openSafetensors(join(home, run, "checkpoint.safetensors"));
  assert.is(JSON.parse(file.metadata.get("position")!).updateInEpoch, 2);
  await file.close();
  makeRoom();
  await laserOk(["train", "--resume", run], home);
  const model = (name: string) => readFileSync(join(home, name, "model.safetensors"));
  assert.ok(model(run).equals(model("whole")));
}

t("a disk that is full when the second checkpoint is written", async () => {
  // Needs no privileges: from the second checkpoint on, the file system answers "no space left" after 1000 bytes.
  const hook = join(home, "full-disk.mjs");
  writeFileSync(
    hook,
    `import fs from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
const { open } = fs;
let checkpoints = 0;
fs.open = async (path, ...rest) => {
  const file = await open(path, ...rest);
  if (!/checkpoint.*partial$/.test(String(path)) || ++checkpoints < 2) return file;
  const write = file.write.bind(file);
  file.write = async (bytes, offset, length) => {
    await write(bytes, offset, Math.min(length, 1000));
    throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  };
  return file;
};
syncBuiltinESMExports();
`,
  );
  await fillsUp("full", `export NODE_OPTIONS="--import=${hook}";`, () => {});
});

t("a file system that is really full while checkpointing", async () => {
  const run = join(home, "disk");
  mkdirSync(run);
  const mount = (...args: string[]) => spawnSync("mount", args).status === 0;
  if (!mount("-t", "tmpfs", "-o", "size=160k", "tmpfs", run)) {
    console.log(
      "SKIPPED: a full disk (mounting a tmpfs needs root on Linux); only the simulated one was tried",
    );
    return;
  }
  try {
    await fillsUp("disk", undefined, () => assert.ok(mount("-o", "remount,size=1m", run)));
  } finally {
    spawnSync("umount", [run]);
    rmSync(run, { recursive: true, force: true });
  }
});

t.run();
