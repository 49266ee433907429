import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { UserError } from "../src/files/user-error.ts";
import { requestAdapter } from "../src/gpu/adapter.ts";
import { hasVulkanLoader, swiftShaderObstacle, unpackSwiftShader } from "../src/gpu/software-adapter.ts";

const CHILD = "a program that opens an adapter and computes";
const NOTHING = { VK_DRIVER_FILES: "/nonexistent.json", VK_ICD_FILENAMES: "/nonexistent.json" };
/** What the user set, before any opening may set it. */
const USERS_WIDTH = process.env.LP_NATIVE_VECTOR_WIDTH;

if (process.argv[2] === CHILD) await computeAndPrint();
else testAll();

/** A whole small program: adapter, device, one dispatch, destroy. Nothing calls process.exit. */
async function computeAndPrint(): Promise<void> {
  try {
    const { device, name, software, notice } = await openDevice();
    // Only the device is left: the collector must not take Dawn's instance from under it.
    setFlagsFromString("--expose-gc");
    (runInNewContext("gc") as () => void)();
    const squares = await computeSquares(device);
    device.destroy();
    console.log(JSON.stringify({ name, software, notice, squares }));
  } catch (error) {
    console.log(JSON.stringify({ error: (error as Error).message, kind: (error as Error).name }));
  }
}

async function openDevice() {
  const { adapter, name, software, notice } = await requestAdapter();
  return { device: await adapter.requestDevice(), name, software, notice };
}

/** i * i + 0.5 for i below 256, computed on the device through workgroup memory. */
async function computeSquares(device: GPUDevice): Promise<number[]> {
  const code = `
    @group(0) @binding(0) var<storage, read_write> y: array<f32>;
    var<workgroup> shared_squares: array<f32, 64>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) global: vec3u, @builtin(local_invocation_index) lane: u32) {
      let mirrored = global.x - lane + 63u - lane;
      shared_squares[63u - lane] = f32(mirrored * mirrored);
      workgroupBarrier();
      y[global.x] = shared_squares[lane] + 0.5;
    }`;
  const bytes = 1024;
  const y = device.createBuffer({ size: bytes, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
  const host = device.createBuffer({ size: bytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const module = device.createShaderModule({ code });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module } });
  const layout = pipeline.getBindGroupLayout(0);
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(
    0,
    device.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer: y } }] }),
  );
  pass.dispatchWorkgroups(4);
  pass.end();
  encoder.copyBufferToBuffer(y, 0, host, 0, bytes);
  device.queue.submit([encoder.finish()]);
  await host.mapAsync(GPUMapMode.READ);
  const squares = [...new Float32Array(host.getMappedRange())];
  host.unmap();
  return squares;
}

interface Report {
  name: string;
  software: boolean;
  notice: string | null;
  squares: number[];
  error?: string;
  kind?: string;
}

/** Runs the program above in a process of its own, which must end by itself within 20 seconds with code 0. */
async function runChild(env: Record<string, string>): Promise<Report> {
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), CHILD], {
    env: { ...process.env, LASER_ADAPTER: "", ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 20_000,
    killSignal: "SIGKILL",
  });
  let [out, err] = ["", ""];
  child.stdout.on("data", (data) => (out += data));
  child.stderr.on("data", (data) => (err += data));
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) =>
    child.on("close", (...end) => resolve(end)),
  );
  assert.is(signal, null, `the program did not end by itself:\n${out}${err}`);
  assert.is(code, 0, err);
  return JSON.parse(out);
}

function assertComputed(report: Report): void {
  assert.is(report.error, undefined);
  assert.equal(
    report.squares,
    [...Array(256).keys()].map((i) => i * i + 0.5),
  );
}

async function messageOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => assert.unreachable("an error was expected"),
    (caught: unknown) => caught,
  );
  assert.instance(error, UserError);
  assert.not.match((error as Error).message, "\n");
  return (error as Error).message;
}

function testAll(): void {
  const t = suite("adapter");
  const scratch = mkdtempSync(join(tmpdir(), "laser-adapter-test-"));
  const obstacle = swiftShaderObstacle();
  let hasLavapipe = false;

  const withSwiftShader = (name: string, run: () => Promise<void> | void) =>
    t(name, async () => {
      if (obstacle) console.log(`SKIPPED: ${name}: ${obstacle}`);
      else await run();
    });
  const withLavapipe = (name: string, run: () => Promise<void> | void) =>
    t(name, async () => {
      if (!hasLavapipe) console.log(`SKIPPED: ${name}: Mesa's lavapipe is not installed`);
      else await run();
    });

  t.before(async () => {
    hasLavapipe = await requestAdapter({ adapter: "lavapipe" }).then(
      () => true,
      () => false,
    );
  });
  t.after(() => rmSync(scratch, { recursive: true, force: true }));

  t("auto opens the best adapter there is and says when it is slow", async () => {
    const { name, software, notice, adapter } = await requestAdapter({ adapter: "auto" });
    assert.ok(name.includes(adapter.info.description));
    if (software) assert.ok(notice?.includes(name) && notice.includes("slow"), String(notice));
    else assert.is(notice, null);
    if (software && hasLavapipe) assert.match(name, /llvmpipe/);
  });

  t("a program on the default adapter ends by itself", async () => assertComputed(await runChild({})));

  withLavapipe("a program on lavapipe ends by itself", async () => {
    const report = await runChild({ LASER_ADAPTER: "lavapipe" });
    assertComputed(report);
    assert.match(report.name, /llvmpipe/);
    assert.ok(report.software);
  });

  withLavapipe("lavapipe uses 512-bit vectors where the processor has them", async () => {
    const { name } = await requestAdapter({ adapter: "lavapipe" });
    const wide = /\bavx512f\b/.test(readFileSync("/proc/cpuinfo", "utf8"));
    assert.is(/-512-bits/.test(name), USERS_WIDTH === undefined ? wide : USERS_WIDTH === "512", name);
  });

  withSwiftShader("a program on SwiftShader ends by itself", async () => {
    const report = await runChild({ LASER_ADAPTER: "swiftshader" });
    assertComputed(report);
    assert.match(report.name, /SwiftShader/);
    assert.match(report.notice!, /slow.*lavapipe/);
  });

  withSwiftShader(
    "auto falls to SwiftShader when there is no driver, from three new processes at once",
    async () => {
      const env = { ...NOTHING, XDG_CACHE_HOME: join(scratch, "shared-cache") };
      const reports = await Promise.all([runChild(env), runChild(env), runChild(env)]);
      for (const report of reports) {
        assertComputed(report);
        assert.match(report.name, /SwiftShader/);
      }
      // One folder, and no draft left behind by those that came second.
      assert.is(readdirSync(join(scratch, "shared-cache", "laser-webgpu")).length, 1);
    },
  );

  withSwiftShader("one process can hold both software adapters, asked for at once", async () => {
    const before = process.env.VK_DRIVER_FILES;
    const [first, second, third] = await Promise.all(
      ["swiftshader", "auto", "swiftshader"].map((adapter) => requestAdapter({ adapter })),
    );
    assert.match(first.name, /SwiftShader/);
    assert.match(third.name, /SwiftShader/);
    if (hasLavapipe) assert.not.match(second.name, /SwiftShader/);
    assert.is(process.env.VK_DRIVER_FILES, before);
    for (const { adapter } of [first, second, third]) {
      const device = await adapter.requestDevice();
      assert.is((await computeSquares(device))[255], 255 * 255 + 0.5);
      device.destroy();
    }
  });

  withLavapipe("any part of a name or description chooses, in any case", async () => {
    for (const part of ["LLVMPIPE", "llvm 1", "mesa 2"]) {
      const message = part.startsWith("mesa") ? /Mesa 2/ : /llvmpipe/;
      assert.match((await requestAdapter({ adapter: part })).name, message);
    }
  });

  t("LASER_ADAPTER chooses, and an unknown name lists what there is", async () => {
    const report = await runChild({ LASER_ADAPTER: "Voodoo 2" });
    assert.is(report.kind, "UserError");
    assert.match(report.error!, /^adapter "Voodoo 2": .*(there are ".+" \(.+\)|no adapter was found)/);
  });

  t("without drivers, gpu and lavapipe are errors that say what to do", async () => {
    if (process.platform !== "linux") return;
    const gpu = await runChild({ ...NOTHING, LASER_ADAPTER: "gpu" });
    assert.match(gpu.error!, /no adapter at all.*driver/);
    const lavapipe = await runChild({ ...NOTHING, LASER_ADAPTER: "lavapipe" });
    assert.match(lavapipe.error!, /too old.*bookworm-backports mesa-vulkan-drivers.*Ubuntu/);
    assert.is(lavapipe.kind, "UserError");
  });

  withLavapipe("gpu refuses an adapter that computes on the CPU", async () => {
    const { software } = await requestAdapter({ adapter: "auto" });
    if (software) assert.match(await messageOf(requestAdapter({ adapter: "gpu" })), /llvmpipe.*on the CPU/);
    else assert.not((await requestAdapter({ adapter: "gpu" })).software);
  });

  t("no adapter at all: the error says what to install on every system", async () => {
    if (process.platform !== "linux") return;
    const { arch } = process;
    const drivers = {
      VK_DRIVER_FILES: process.env.VK_DRIVER_FILES,
      VK_ICD_FILENAMES: process.env.VK_ICD_FILENAMES,
    };
    Object.assign(process.env, NOTHING);
    // The packaged SwiftShader is not for this processor then.
    Object.defineProperty(process, "arch", { value: "riscv64" });
    try {
      const message = await messageOf(requestAdapter({ adapter: "auto" }));
      for (const word of [
        "Debian",
        "mesa-vulkan-drivers",
        "Ubuntu",
        "macOS",
        "Windows",
        "npm i @sparticuz/chromium",
      ])
        assert.ok(message.includes(word), `${word} in: ${message}`);
      assert.match(await messageOf(requestAdapter({ adapter: "swiftshader" })), /x64 only.*riscv64/);
    } finally {
      Object.defineProperty(process, "arch", { value: arch });
      for (const [variable, value] of Object.entries(drivers)) {
        if (value === undefined) delete process.env[variable];
        else process.env[variable] = value;
      }
    }
  });

  withSwiftShader(
    "SwiftShader is unpacked once, again when damaged, and elsewhere when home is read-only",
    () => {
      const { XDG_CACHE_HOME, TMPDIR } = process.env;
      try {
        process.env.XDG_CACHE_HOME = join(scratch, "cache");
        const folder = unpackSwiftShader();
        assert.ok(folder.startsWith(join(scratch, "cache")), folder);
        const library = join(folder, "libvk_swiftshader.so");
        const { ino, size } = statSync(library);
        assert.is(unpackSwiftShader(), folder);
        assert.is(statSync(library).ino, ino);
        rmSync(library);
        assert.is(unpackSwiftShader(), folder);
        assert.is(statSync(library).size, size);

        process.env.XDG_CACHE_HOME = "/dev/null/cache";
        process.env.TMPDIR = scratch;
        const fallback = unpackSwiftShader();
        assert.ok(fallback.startsWith(join(scratch, "laser-webgpu-")), fallback);
        assert.ok(existsSync(join(fallback, "libvulkan.so.1")));
        process.env.TMPDIR = "/dev/null/tmp";
        assert.throws(unpackSwiftShader, /cannot unpack SwiftShader.*XDG_CACHE_HOME/);
      } finally {
        for (const [variable, value] of Object.entries({ XDG_CACHE_HOME, TMPDIR })) {
          if (value === undefined) delete process.env[variable];
          else process.env[variable] = value;
        }
      }
    },
  );

  t("the Vulkan loader is found exactly where lavapipe can be opened", () => {
    if (hasLavapipe) assert.ok(hasVulkanLoader());
  });

  t.run();
}
