/** Failures of the device surface by name from Step.submit and everything after it, never as wrong numbers. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { UserError } from "../src/files/user-error.ts";
import { Gpu } from "../src/gpu/device.ts";
import { GpuLostError, GpuOutOfMemoryError, GpuValidationError } from "../src/gpu/errors.ts";
import { kernels } from "../src/gpu/kernels.generated.ts";
import { add } from "../src/ops/elementwise.ts";
import { noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";

const t = suite("failures of the GPU");
const gpu = await openTestGpu();
t.after(() => gpu.close());

/** The error that a promise rejects with, or that a function throws. */
async function errorOf(what: Promise<unknown> | (() => unknown)): Promise<Error> {
  try {
    await (typeof what === "function" ? what() : what);
  } catch (error) {
    return error as Error;
  }
  throw new Error("expected an error");
}

t("a refused command surfaces as GpuValidationError, and no later step runs", async () => {
  const other = await Gpu.open();
  try {
    const step = other.step("aliased");
    const y = step.tensor([4]);
    // One buffer read and written by the same dispatch.
    step.run(kernels.add, { bindings: { a: y, b: y, y }, params: { count: 4 }, workgroups: [1] });
    const read = step.read(y);
    const error = await errorOf(step.submit());
    assert.instance(error, GpuValidationError);
    assert.match(error.message, /writable usage/);
    assert.is(await errorOf(read), error);
    assert.is(await errorOf(() => other.step("next")), error);
    assert.is(await errorOf(() => other.parameter([1])), error);
    assert.is(await errorOf(other.flush()), error);
  } finally {
    other.close();
  }
});

t("a lost device surfaces as GpuLostError, while recording, in flight and afterwards", async () => {
  for (const when of ["recording", "in flight", "without reads"]) {
    const other = await Gpu.open();
    const step = other.step(when);
    const x = step.upload(noise(256, 1));
    const y = add(step, x, x);
    const read = when === "without reads" ? null : step.read(y);
    if (when === "recording") other.device.destroy();
    const submitted = step.submit();
    if (when !== "recording") other.device.destroy();
    const error = await errorOf(submitted);
    assert.instance(error, GpuLostError, when);
    assert.match(error.message, /the GPU was lost \(destroyed\)/);
    if (read) assert.is(await errorOf(read), error);
    assert.is(await errorOf(() => other.step("next")), error);
    other.close();
  }
});

t("closing ends what is in flight by name; nothing begins afterwards", async () => {
  const other = await Gpu.open();
  const tensor = other.parameter([4], "f32", new Float32Array(4));
  const read = other.read(tensor);
  other.close();
  other.close();
  const error = await errorOf(read);
  assert.instance(error, GpuLostError);
  assert.is(error.message, "the GPU was closed");
  assert.is(await errorOf(() => other.step("next")), error);
  assert.is(await errorOf(() => other.read(tensor)), error);
});

t("memory that the host is filling outlives a close until it is filled", async () => {
  for (const fails of [false, true]) {
    const other = await Gpu.open();
    let destroyed = false;
    const destroy = other.device.destroy.bind(other.device);
    other.device.destroy = () => {
      destroyed = true;
      return destroy();
    };
    let finish = () => {};
    const fill = new Promise<void>((resolve, reject) => {
      finish = fails ? () => reject(new Error("the disk's")) : resolve;
    });
    const filling = errorOf(other.whileFilling(fill).then(() => Promise.reject(new Error("filled"))));
    other.close();
    await new Promise((resolve) => setTimeout(resolve, 5));
    assert.not.ok(destroyed, "the device went while its memory was being filled");
    assert.instance(await errorOf(() => other.step("next")), GpuLostError);
    finish();
    assert.is((await filling).message, fails ? "the disk's" : "filled");
    await new Promise((resolve) => setTimeout(resolve, 5));
    assert.ok(destroyed);
  }
});

t("a tensor larger than any buffer is refused with its size, before anything is allocated", async () => {
  const step = gpu.step("large");
  const { bytes } = gpu.buffers;
  const shape = [2 ** 20, 2 ** 20];
  for (const make of [() => gpu.parameter(shape), () => step.tensor(shape)]) {
    const error = await errorOf(make);
    assert.instance(error, GpuOutOfMemoryError);
    assert.match(
      error.message,
      /^a tensor \[1048576,1048576\] needs 4398046511104 bytes, the adapter's buffers hold \d+$/,
    );
  }
  assert.is(gpu.buffers.bytes, bytes);
  await step.submit();
});

t("the largest buffer can be had: its size class is not rounded past the limit", () => {
  const { maxBufferSize } = gpu.device.limits;
  const largest = Math.floor(maxBufferSize / 16) * 16;
  assert.is(gpu.buffers.classOf(largest), largest);
  assert.is(gpu.buffers.classOf(1000), 1024);
});

t("memory that the driver does not have surfaces as GpuOutOfMemoryError", async () => {
  // SwiftShader refuses what it cannot have. (lavapipe promises any amount; the operating system ends the process.)
  const open = () => Gpu.open({ adapter: "swiftshader" });
  let other: Gpu;
  try {
    other = await open();
  } catch (error) {
    assert.instance(error, UserError);
    console.log(`SKIPPED: out of memory (${(error as Error).message})`);
    return;
  }
  // 64 of its largest buffers are far more than it has.
  const shape = [Math.floor(other.device.limits.maxBufferSize / 4)];
  const persistent = await errorOf(async () => {
    for (let n = 0; n < 64; n++) other.parameter(shape);
    await other.flush();
  });
  assert.instance(persistent, GpuOutOfMemoryError);
  assert.match(persistent.message, /^the GPU is out of memory with \d+ MiB allocated: /);
  assert.is(await errorOf(() => other.step("next")), persistent);
  other.close();

  other = await open();
  const step = other.step("too much");
  for (let n = 0; n < 64; n++) step.zero(step.tensor(shape));
  const read = step.read(step.upload(Float32Array.of(1)));
  const error = await errorOf(step.submit());
  assert.instance(error, GpuOutOfMemoryError);
  assert.is(await errorOf(read), error);
  other.close();
});

t.run();
