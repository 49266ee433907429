import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { UserError } from "../files/user-error.ts";
import { hasVulkanLoader, swiftShaderObstacle, withSwiftShader } from "./software-adapter.ts";

export interface AdapterOptions {
  /**
   * `auto` (a hardware GPU, else Mesa's lavapipe, else SwiftShader), `gpu` (hardware only), `lavapipe`, `swiftshader`,
   * or any part of the adapter's name or description, in any case. Default: LASER_ADAPTER, else `auto`.
   */
  readonly adapter?: string;
}

export interface OpenedAdapter {
  /** Dawn's instance: keep it as long as the device. */
  readonly gpu: GPU;
  readonly adapter: GPUAdapter;
  /** Device and driver with their versions: equal names on two runs mean equal results. */
  readonly name: string;
  /** Computes on the CPU. */
  readonly software: boolean;
  /** One line for the user when the adapter is slow, else null. */
  readonly notice: string | null;
}

type Dawn = typeof import("webgpu");

const INSTALL = [
  "Debian 12: apt install -t bookworm-backports mesa-vulkan-drivers libvulkan1",
  "Ubuntu: apt install mesa-vulkan-drivers libvulkan1",
  "macOS: nothing to install, Metal needs macOS 11 or later",
  "Windows: the graphics card's current driver",
  "Linux on x64 without root: npm i @sparticuz/chromium",
].join("; ");

/** A name no adapter has: Dawn then answers with the names there are. */
const NO_SUCH_NAME = "?";

/**
 * Opens an adapter. `requestDevice` on the result gives the device; the process ends by itself once every device
 * has had `destroy()`. Installs WebGPU's constants (GPUBufferUsage, ...) as globals.
 *
 * LASER_FAST=1 takes away Dawn's validation, the bounds checks in shaders and the zeroing of workgroup memory.
 *
 * Throws UserError, with what to install, when there is no adapter, or none of the wanted kind.
 */
export function requestAdapter(options: AdapterOptions = {}): Promise<OpenedAdapter> {
  const wanted = (options.adapter || process.env.LASER_ADAPTER || "auto").trim();
  // One at a time: SwiftShader is chosen through the environment, which all openings of a process share.
  const opened = turn.then(() => open(wanted));
  turn = opened.catch(() => {});
  return opened;
}
let turn: Promise<unknown> = Promise.resolve();

async function open(wanted: string): Promise<OpenedAdapter> {
  const dawn = await loadDawn();
  prepareEnvironment();
  switch (wanted.toLowerCase()) {
    case "auto":
      return openBest(dawn);
    case "gpu":
      return openHardware(dawn);
    case "lavapipe":
      return openLavapipe(dawn);
    case "swiftshader":
      return openSwiftShader(dawn);
    default:
      return openNamed(dawn, wanted);
  }
}

async function openBest(dawn: Dawn): Promise<OpenedAdapter> {
  const best = await tryOpen(dawn);
  if (best && !isSwiftShader(best.adapter)) return best;
  // Dawn puts hardware first, but knows no order between lavapipe and a SwiftShader of the system's own.
  if (best) return (await tryOpen(dawn, "llvmpipe")) ?? best;
  const obstacle = swiftShaderObstacle();
  if (obstacle) throw new UserError(`no WebGPU adapter found and ${obstacle}. Install one: ${INSTALL}`);
  return openSwiftShader(dawn);
}

async function openHardware(dawn: Dawn): Promise<OpenedAdapter> {
  const best = await tryOpen(dawn);
  if (best && !best.software) return best;
  const instead = best ? `only ${best.name}, which computes on the CPU` : "no adapter at all";
  throw new UserError(
    `adapter "gpu": found ${instead}; install the graphics card's Vulkan driver, or use --adapter auto`,
  );
}

async function openLavapipe(dawn: Dawn): Promise<OpenedAdapter> {
  const lavapipe = await tryOpen(dawn, "llvmpipe");
  if (lavapipe) return lavapipe;
  throw new UserError(
    "adapter \"lavapipe\": Mesa's lavapipe is not installed, or too old for Dawn (Debian 12's own 22.3 is; 25.0 works)." +
      ` Install it: ${INSTALL.split("; ").slice(0, 2).join("; ")}`,
  );
}

async function openSwiftShader(dawn: Dawn): Promise<OpenedAdapter> {
  const obstacle = swiftShaderObstacle();
  const opened = obstacle
    ? await tryOpen(dawn, "SwiftShader")
    : await withSwiftShader(() => tryOpen(dawn, "SwiftShader"));
  if (opened) return opened;
  throw new UserError(
    `adapter "swiftshader": ${obstacle ?? "Dawn does not accept the unpacked SwiftShader"}`,
  );
}

async function openNamed(dawn: Dawn, wanted: string): Promise<OpenedAdapter> {
  const part = wanted.toLowerCase();
  const names = await listNames(dawn);
  const seen: string[] = [];
  // Names are cheap to compare; descriptions (the driver) need the adapter opened.
  const ordered = [
    ...names.filter((name) => name.toLowerCase().includes(part)),
    ...names.filter((name) => !name.toLowerCase().includes(part)),
  ];
  for (const name of ordered) {
    const opened = await tryOpen(dawn, name);
    if (!opened) continue;
    if (`${name} ${opened.name} ${opened.adapter.info.vendor}`.toLowerCase().includes(part)) return opened;
    seen.push(`"${name}" (${opened.adapter.info.description})`);
  }
  if ("swiftshader driver".includes(part) && !swiftShaderObstacle()) return openSwiftShader(dawn);
  const list = seen.length ? `there are ${seen.join(", ")}` : "no adapter was found";
  throw new UserError(
    `adapter "${wanted}": no adapter's name or description holds it; ${list}; auto, gpu, lavapipe and swiftshader also work`,
  );
}

/** The best adapter whose name holds `name` (any when left out), or null. */
async function tryOpen(dawn: Dawn, name?: string): Promise<OpenedAdapter | null> {
  if (!canHaveAdapter()) return null;
  const gpu = dawn.create([...dawnFlags(), ...(name ? [`adapter=${name}`] : [])]);
  let adapter: GPUAdapter | null;
  try {
    adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  } catch (error) {
    if (name && messageOf(error).includes("Available adapters")) return null;
    throw error;
  }
  if (!adapter) return null;
  const { info } = adapter;
  const software = info.isFallbackAdapter || isSwiftShader(adapter) || /llvmpipe|lavapipe/.test(info.device);
  const device = info.device.replace(/-+$/, "");
  const fullName = device ? `${device} (${info.description})` : info.description;
  return { gpu, adapter, name: fullName, software, notice: software ? noticeOf(adapter, fullName) : null };
}

/** The names of all adapters, as Dawn compares them. */
async function listNames(dawn: Dawn): Promise<string[]> {
  if (!canHaveAdapter()) return [];
  try {
    await dawn.create([`adapter=${NO_SUCH_NAME}`]).requestAdapter();
  } catch (error) {
    return [...new Set([...messageOf(error).matchAll(/ name: '(.*)'$/gm)].map((match) => match[1]))];
  }
  return [];
}

/** False on a Linux without a Vulkan loader, where Dawn would only print warnings. */
function canHaveAdapter(): boolean {
  return process.platform !== "linux" || hasVulkanLoader();
}

function isSwiftShader(adapter: GPUAdapter): boolean {
  return /swiftshader/i.test(`${adapter.info.architecture} ${adapter.info.description}`);
}

function noticeOf(adapter: GPUAdapter, name: string): string {
  const faster = isSwiftShader(adapter)
    ? "Mesa's lavapipe is 2 to 3 times faster and has f16 (mesa-vulkan-drivers 25 or later); a GPU is faster still"
    : "a GPU is much faster";
  return `Computing on the CPU with the software adapter ${name}: this is slow; ${faster}.`;
}

function dawnFlags(): string[] {
  // f16 on NVIDIA and the experimental matrix features wait behind flags; timestamps come in steps of 65,536 ns.
  const enabled = ["allow_unsafe_apis", "vulkan_enable_f16_on_nvidia"];
  if (process.env.LASER_FAST === "1")
    enabled.push("skip_validation", "disable_robustness", "disable_workgroup_init");
  return [`enable-dawn-features=${enabled.join(",")}`, "disable-dawn-features=timestamp_quantization"];
}

/** Variables that drivers read when Dawn first enumerates them. What the user has set stays. */
function prepareEnvironment(): void {
  if (process.platform !== "linux") return;
  process.env.XDG_RUNTIME_DIR ??= tmpdir(); // Without it the Vulkan loader or Mesa complain on stderr.
  if (process.env.LP_NATIVE_VECTOR_WIDTH === undefined && hasAvx512())
    process.env.LP_NATIVE_VECTOR_WIDTH = "512";
}

/** lavapipe by itself uses vectors of 256 bits at most. */
function hasAvx512(): boolean {
  try {
    return /\bavx512f\b/.test(readFileSync("/proc/cpuinfo", "utf8"));
  } catch {
    return false;
  }
}

/** Loaded when first needed, so that commands that compute nothing also run where Dawn does not load. */
async function loadDawn(): Promise<Dawn> {
  try {
    const dawn = await import("webgpu");
    Object.assign(globalThis, dawn.globals);
    return dawn;
  } catch (error) {
    throw new UserError(
      `Dawn (the npm package webgpu) does not load on ${process.platform} ${process.arch}: ` +
        `${messageOf(error).split("\n")[0]}; it is built for Linux (glibc) and Windows on x64 and arm64, and macOS`,
    );
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
