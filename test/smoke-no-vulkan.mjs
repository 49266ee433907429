// Proves that the built library computes on a Linux machine that has no Vulkan at all.
//
//   node test/smoke-no-vulkan.mjs              runs the checks, ends with "N passed, N failed"
//   node test/smoke-no-vulkan.mjs COMMAND...   runs any command (say: npm test) with Vulkan hidden from it
//
// Where the machine has a Vulkan loader, it is hidden in a mount namespace (unshare): each libvulkan.so.1 has
// /dev/null bound over it, for the child only. Where that is not allowed, the loader stays but finds no drivers.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const CHILD = "--compute";
const LIMIT_MS = 60_000;

if (process.argv[2] === CHILD) await compute();
else if (process.platform !== "linux") {
  console.log("SKIPPED: the no-Vulkan smoke test is about Linux");
  console.log("0 passed, 0 failed");
} else if (process.argv.length > 2) {
  const [program, ...args] = hiding()?.(process.argv.slice(2)) ?? process.argv.slice(2);
  process.exitCode = spawnSync(program, args, { stdio: "inherit" }).status ?? 1;
} else check();

/** Whether dlopen finds a Vulkan loader: what is no addon "did not self-register" after loading. */
function loaderIsThere() {
  try {
    process.dlopen({ exports: {} }, "libvulkan.so.1", 2);
    return true;
  } catch (error) {
    return error.message.includes("did not self-register");
  }
}

/** How to run a command without the machine's Vulkan loader, as a function of the command; null: not allowed. */
function hiding() {
  if (!loaderIsThere()) return (command) => command;
  const listed = spawnSync("ldconfig", ["-p"], {
    encoding: "utf8",
    env: { ...process.env, PATH: `${process.env.PATH}:/sbin:/usr/sbin` },
  });
  const found = [...(listed.stdout ?? "").matchAll(/libvulkan\.so\.1 .*=> (.*)$/gm)].map((match) => match[1]);
  for (const folder of (process.env.LD_LIBRARY_PATH ?? "").split(":").filter(Boolean)) {
    found.push(join(folder, "libvulkan.so.1"));
  }
  const libraries = found.flatMap((path) => {
    try {
      return [realpathSync(path)];
    } catch {
      return [];
    }
  });
  // The libraries, then --, then the command.
  const script = 'until [ "$1" = -- ]; do mount --bind /dev/null "$1"; shift; done; shift; exec "$@"';
  const own = process.getuid() === 0 ? "-m" : "-rm";
  const wrap = (command) => [
    "unshare",
    own,
    "sh",
    "-ec",
    script,
    "sh",
    ...new Set(libraries),
    "--",
    ...command,
  ];
  const [program, ...args] = wrap(["true"]);
  return libraries.length > 0 && spawnSync(program, args).status === 0 ? wrap : null;
}

function check() {
  const scratch = mkdtempSync(join(tmpdir(), "laser-smoke-"));
  const fresh = { XDG_CACHE_HOME: join(scratch, "cache") };
  const hide = hiding();
  const checks = [];
  if (hide) {
    const how = loaderIsThere() ? "hidden" : "not installed";
    checks.push([`Vulkan ${how}, first run`, hide, { ...fresh, EXPECT_NO_LOADER: "1" }]);
    checks.push([`Vulkan ${how}, second run`, hide, { ...fresh, EXPECT_NO_LOADER: "1" }]);
  } else
    console.log("SKIPPED: this machine allows no mount namespace: the Vulkan loader could not be hidden");
  if (loaderIsThere()) {
    const none = { ...fresh, VK_DRIVER_FILES: "/nonexistent.json", VK_ICD_FILENAMES: "/nonexistent.json" };
    checks.push(["Vulkan loader without drivers", (command) => command, none]);
  }
  let passed = 0;
  for (const [title, wrap, env] of checks) {
    const [program, ...args] = wrap([process.execPath, fileURLToPath(import.meta.url), CHILD]);
    const started = performance.now();
    const { status, signal, stdout, stderr } = spawnSync(program, args, {
      encoding: "utf8",
      env: { ...process.env, LASER_ADAPTER: "", ...env },
      timeout: LIMIT_MS,
      killSignal: "SIGKILL",
    });
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    const ok = status === 0 && stdout.includes("computed:");
    if (ok) passed += 1;
    console.log(`${ok ? "ok" : "FAILED"}: ${title} (${seconds} s${signal ? `, ended by ${signal}` : ""})`);
    console.log(`${stdout}${ok ? "" : stderr}`.trimEnd().replace(/^/gm, "    "));
  }
  rmSync(scratch, { recursive: true, force: true });
  console.log(`${passed} passed, ${checks.length - passed} failed`);
  process.exitCode = passed === checks.length ? 0 : 1;
}

/** The child: opens the default adapter through the public library, computes, compares, and ends by itself. */
async function compute() {
  if (process.env.EXPECT_NO_LOADER && loaderIsThere()) throw new Error("the Vulkan loader is not hidden");
  const { Gpu } = await import("../dist/index.js");
  const gpu = await Gpu.open();
  console.log(gpu.notice);
  if (!/swiftshader/i.test(gpu.adapterName)) throw new Error(`opened ${gpu.adapterName}`);
  if (!gpu.software || !gpu.notice.includes("slow")) throw new Error("does not say that it is slow");
  const unpacked = readdirSync(join(process.env.XDG_CACHE_HOME, "laser-webgpu"));
  if (unpacked.length !== 1) throw new Error(`the cache folder holds ${unpacked.join(", ")}`);

  // y = a x + y, through a step with an upload, a scalar, a specialisation constant and a readback.
  const axpy = {
    name: "axpy",
    source: `requires immediate_address_space;
      override WIDTH: u32 = 1u;
      struct Params { count: u32, a: f32 }
      var<immediate> params: Params;
      @group(0) @binding(0) var<storage, read> x: array<f32>;
      @group(0) @binding(1) var<storage, read_write> y: array<f32>;
      @compute @workgroup_size(WIDTH)
      fn main(@builtin(global_invocation_id) id: vec3u) {
        if (id.x < params.count) { y[id.x] += params.a * x[id.x]; }
      }`,
    bindings: [
      { name: "x", binding: 0, access: "read" },
      { name: "y", binding: 1, access: "read_write" },
    ],
    params: [
      { name: "count", type: "u32", offset: 0 },
      { name: "a", type: "f32", offset: 4 },
    ],
    paramBytes: 8,
    overrides: [{ name: "WIDTH", type: "u32" }],
  };
  const count = 1000;
  const step = gpu.step("smoke");
  const x = step.upload(Float32Array.from({ length: count }, (_, i) => i));
  const y = step.upload(Float32Array.from({ length: count }, (_, i) => 0.25 * i));
  step.run(axpy, {
    bindings: { x, y },
    params: { count, a: 2.5 },
    overrides: { WIDTH: 64 },
    workgroups: [Math.ceil(count / 64)],
  });
  const result = step.read(y);
  await step.submit();
  const wrong = (await result).findIndex((value, i) => value !== 2.75 * i);
  if (wrong >= 0) throw new Error(`element ${wrong} is ${(await result)[wrong]}, expected ${2.75 * wrong}`);
  gpu.close();
  console.log(`computed: ${count} values are right on ${gpu.adapterName}`);
}
