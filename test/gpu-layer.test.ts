/**
 * The GPU layer's promises: what a step's arena may reuse and what not, a steady state that allocates nothing, errors
 * that name what is wrong with a recording, and the profile.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Gpu } from "../src/gpu/device.ts";
import { kernels } from "../src/gpu/kernels.generated.ts";
import type { Step } from "../src/gpu/step.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import { add } from "../src/ops/elementwise.ts";
import { linear } from "../src/ops/linear.ts";
import { layerNorm } from "../src/ops/norm.ts";
import { noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";

/** What the child process of the profile's test does. */
if (process.argv[2] === "profiled") {
  const gpu = await Gpu.open();
  for (let n = 0; n < 3; n++) {
    const step = gpu.step("profiled");
    const x = step.upload(noise(64 * 64, 1), [64, 64]);
    add(step, linear(step, x, x), x);
    await step.submit();
  }
  gpu.close();
  process.exit();
}

const t = suite("GPU layer");
const gpu = await openTestGpu();
t.after(() => gpu.close());

t("an upload never takes memory that was freed earlier in the same step", async () => {
  const n = 64;
  // Leaves a buffer of that size in the pool, so that the next step's first upload finds one.
  const before = gpu.step("before");
  before.upload(noise(n, 1));
  await before.submit();
  const step = gpu.step("uploads");
  const used: Tensor[] = [];
  const reads: Promise<Float32Array>[] = [];
  for (let i = 0; i < 6; i++) {
    const x = step.upload(new Float32Array(n).fill(i));
    for (const earlier of used) assert.is.not(x.bufferId, earlier.bufferId, `upload ${i}`);
    const y = add(step, x, x);
    reads.push(step.readFloats(y));
    used.push(x, y);
    step.free(x);
    step.free(y);
  }
  await step.submit();
  for (const [i, values] of (await Promise.all(reads)).entries()) {
    assert.equal(values, new Float32Array(n).fill(2 * i));
  }
});

t(
  "a freed tensor's memory is taken by the next of its size class; double and foreign frees are harmless",
  async () => {
    const step = gpu.step("free");
    const a = step.tensor([100]);
    step.free(a);
    const b = step.tensor([14, 8]);
    assert.is(b.bufferId, a.bufferId);
    const larger = step.tensor([1000]);
    step.free(larger);
    step.free(larger);
    const [c, d] = [step.tensor([1000]), step.tensor([1000])];
    assert.is(c.bufferId, larger.bufferId);
    assert.is.not(d.bufferId, c.bufferId);
    const parameter = gpu.parameter([4], "f32", Float32Array.of(1, 2, 3, 4));
    step.free(parameter);
    await step.submit();
    assert.equal(await gpu.read(parameter), Float32Array.of(1, 2, 3, 4));
    gpu.release(parameter);
    assert.throws(() => gpu.release(parameter), /not persistent, or was released before/);
  },
);

t("a new tensor is poisoned in tests, so that reading what nobody wrote shows", async () => {
  const step = gpu.step("poison");
  const read = step.readFloats(step.tensor([5]));
  await step.submit();
  assert.ok((await read).every(Number.isNaN));
});

/** A small recording with uploads, early frees and several kernels. */
function record(step: Step, weight: Tensor, seed: number): Promise<Float32Array> {
  const x = step.upload(noise(32 * 64, seed), [32, 64]);
  const y = linear(step, x, weight);
  const { y: normed, mean, rstd } = layerNorm(step, y, weight.rows(0, 1), weight.rows(1, 2), 1e-5);
  for (const tensor of [mean, rstd, y]) step.free(tensor);
  return step.readFloats(add(step, normed, x));
}

t("identical steps allocate nothing and create no bind group", async () => {
  const weight = gpu.parameter([64, 64], "f32", noise(64 * 64, 2));
  const states: { bytes: number; groups: number; programs: number }[] = [];
  const results: Float32Array[] = [];
  for (let n = 0; n < 4; n++) {
    const step = gpu.step("steady");
    const read = record(step, weight, 3);
    await step.submit();
    results.push(await read);
    states.push({
      bytes: gpu.buffers.bytes,
      groups: gpu.bindGroupsCreated,
      programs: gpu.programs.count,
    });
  }
  for (const state of states.slice(1)) assert.equal(state, states[0]);
  for (const result of results) assert.equal(result, results[0]);
  // Other lengths of the same size class find the same memory.
  const step = gpu.step("shorter");
  linear(step, step.upload(noise(31 * 64, 1), [31, 64]), weight);
  await step.submit();
  assert.is(gpu.buffers.bytes, states[0].bytes);
  gpu.release(weight);
});

t("trim empties the pool, and the next step works", async () => {
  gpu.buffers.trim();
  assert.is(gpu.buffers.pooledBytes, 0);
  const step = gpu.step("after trim");
  const x = step.upload(Float32Array.of(1, 2));
  const read = step.readFloats(add(step, x, x));
  await step.submit();
  assert.equal(await read, Float32Array.of(2, 4));
});

t("smaller tensors take the buffers of larger ones, up to four times their size", async () => {
  const bytesAfter = async (floats: number, count: number) => {
    const step = gpu.step("sizes");
    const tensors = Array.from({ length: count }, () => step.tensor([floats]));
    assert.is(new Set(tensors.map(({ bufferId }) => bufferId)).size, count, "two tensors share a buffer");
    // Freed within the step, they serve it again.
    for (const tensor of tensors) step.free(tensor);
    step.tensor([floats]);
    await step.submit();
    return gpu.buffers.pooledBytes;
  };
  gpu.buffers.trim();
  const most = await bytesAfter(4096, 3);
  assert.is(most, 3 * 4096 * 4);
  assert.is(await bytesAfter(3000, 3), most);
  assert.is(await bytesAfter(1024, 3), most);
  assert.is(await bytesAfter(1023, 1), most, "1023 floats share their class with 1024");
  assert.ok((await bytesAfter(512, 1)) > most, "an eighth of a buffer is not worth it");
});

t("a reserved pool serves the steps that need it", async () => {
  gpu.buffers.trim();
  const record = async () => {
    const step = gpu.step("reserved");
    for (const floats of [64, 5000, 300]) step.tensor([floats]);
    await step.submit();
  };
  await record();
  const sizes = gpu.buffers.freeSizes;
  assert.equal(
    sizes,
    [...sizes].sort((a, b) => b - a),
  );
  const { pooledBytes } = gpu.buffers;
  gpu.buffers.trim();
  gpu.buffers.reserve(sizes);
  assert.is(gpu.buffers.pooledBytes, pooledBytes);
  await record();
  assert.is(gpu.buffers.pooledBytes, pooledBytes);
});

t("one step records at a time; a submitted one is closed", async () => {
  const step = gpu.step("first");
  assert.throws(() => gpu.step("second"), 'step "second" begins while "first" is still being recorded');
  await step.submit();
  assert.throws(() => step.tensor([1]), 'step "first" was already submitted');
  assert.throws(() => step.upload(Float32Array.of(1)), /already submitted/);
  assert.throws(() => step.submit(), /already submitted/);
  await gpu.step("third").submit();
});

t("a missing binding, scalar or override is named; so are misfits of host data", async () => {
  const step = gpu.step("missing");
  const y = step.tensor([4]);
  const wrong = (dispatch: object) => () => step.run(kernels.add, dispatch as never);
  const whole = { bindings: { a: y, b: y, y: step.tensor([4]) }, params: { count: 4 }, workgroups: [1] };
  assert.throws(wrong({ ...whole, bindings: { a: y, y } }), "add needs a tensor for binding b");
  assert.throws(wrong({ ...whole, params: {} }), "add needs the scalar count");
  assert.throws(wrong({ ...whole, overrides: { SPEED: 3 } }), "add has no override SPEED");
  assert.throws(() => step.upload(new Float32Array(3), [2, 2]), "upload of 3 values as [2,2]");
  assert.throws(() => step.copy(y, step.tensor([5])), "copy of [4] into [5]");
  assert.throws(() => y.reshape([5]), "cannot reshape [4] to [5]");
  assert.throws(() => step.tensor([3, 2]).rows(1, 2), /rows from 1 start at byte 8, not a multiple of 256/);
  assert.throws(() => step.tensor([3, 2]).rows(1, 4), /rows 1..4 of a tensor with 3 rows/);
  assert.throws(() => gpu.write(y, new Float32Array(5)), /write of 20 bytes into a tensor \[4\] of 16 bytes/);
  await step.submit();
  gpu.check();
});

t("a tensor past the binding limit is named", async () => {
  const small = await openTestGpu({ maxBindingBytes: 1024 });
  try {
    small.poison = false;
    const step = small.step("windows");
    const [a, y] = [step.tensor([256]), step.tensor([257])];
    const message =
      "add: binding b [257] has 1028 bytes, more than one binding may cover (1024); bind it in windows";
    const bindings = { a, b: y, y: a };
    assert.throws(() => step.run(kernels.add, { bindings, params: { count: 1 }, workgroups: [1] }), message);
    await step.submit();
  } finally {
    small.close();
  }
});

t("warm compiles what a recording uses and leaves no other trace", async () => {
  const fresh = await Gpu.open();
  try {
    const weight = fresh.parameter([64, 64], "f32", noise(64 * 64, 2));
    const { bytes } = fresh.buffers;
    const compiled: string[] = [];
    const { device } = fresh;
    const compile = device.createComputePipelineAsync.bind(device);
    device.createComputePipelineAsync = (descriptor) => {
      compiled.push(descriptor.label!);
      return compile(descriptor);
    };
    await fresh.warm((step) => void record(step, weight, 1));
    assert.ok(compiled.length >= 3 && compiled.length === fresh.programs.count, compiled.join("; "));
    assert.is(fresh.buffers.bytes, bytes);
    assert.is(fresh.bindGroupsCreated, 0);
    // Recording for real compiles nothing more, neither in parallel nor on the spot.
    device.createComputePipeline = () => {
      throw new Error("compiled while recording");
    };
    const before = compiled.length;
    const step = fresh.step("warmed");
    const read = record(step, weight, 1);
    await step.submit();
    assert.ok((await read).every(Number.isFinite));
    assert.is(compiled.length, before);
    await fresh.warm((again) => void record(again, weight, 1));
    assert.is(compiled.length, before);
  } finally {
    fresh.close();
  }
});

t("LASER_PROFILE=1 prints a line a kernel: calls, time, rates and shares", () => {
  if (!gpu.features.has("timestamp-query")) {
    console.log(`SKIPPED: ${gpu.adapterName} has no timestamp queries to profile with`);
    return;
  }
  const child = spawnSync(process.execPath, [fileURLToPath(import.meta.url), "profiled"], {
    env: { ...process.env, LASER_PROFILE: "1" },
    encoding: "utf8",
  });
  assert.is(child.status, 0, child.stderr);
  const lines = child.stderr.split("\n");
  const header = lines.findIndex((line) => /calls\s+ms\s+GFLOP\/s\s+GB\/s\s+share\s+kernel/.test(line));
  assert.ok(header >= 0, child.stderr);
  const rows = lines.slice(header + 1).filter((line) => line.trim());
  const parsed = rows.map((line) => {
    const match = /^\s*(\d+)\s+([\d.]+)\s+([\d.]+|-)\s+([\d.]+|-)\s+([\d.]+)%\s+(\S+)$/.exec(line);
    assert.ok(match, line);
    const [, calls, ms, flops, bytes, share, kernel] = match!;
    return { calls: +calls, ms: +ms, flops, bytes, share: +share, kernel };
  });
  // One line a program.
  assert.is(new Set(parsed.map(({ kernel }) => kernel)).size, parsed.length);
  const product = parsed.find(({ kernel }) => kernel.startsWith("product"));
  const sum = parsed.find(({ kernel }) => kernel.startsWith("add"));
  assert.ok(product && sum, rows.join("\n"));
  assert.is(product!.calls, 3);
  assert.is(sum!.calls, 3);
  assert.ok(product!.ms > 0 && product!.bytes !== "-", rows.join("\n"));
  // 2 * 64^3 operations a call.
  const rate = (3 * 2 * 64 ** 3) / (product!.ms / 1e3) / 1e9;
  const rounding = 0.01 + 0.05 * rate;
  assert.ok(
    Math.abs(Number(product!.flops) - rate) < rounding,
    `${product!.flops} GFLOP/s, expected ${rate}`,
  );
  const shares = parsed.reduce((all, { share }) => all + share, 0);
  assert.ok(Math.abs(shares - 100) < 0.5, `shares add up to ${shares}`);
});

t.run();
