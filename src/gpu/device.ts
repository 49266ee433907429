import { requestAdapter } from "./adapter.ts";
import { Buffers, type Pooled } from "./buffers.ts";
import { type AdapterTraits, countingDevice } from "./counting-device.ts";
import { GpuBindingError, GpuLostError, GpuOutOfMemoryError, GpuValidationError } from "./errors.ts";
import type { Kernel } from "./kernel.ts";
import { Profile } from "./profile.ts";
import { type Program, Programs } from "./programs.ts";
import { type HostArray, Step } from "./step.ts";
import { findSubgroupMatrix, type SubgroupMatrix } from "./subgroup-matrix.ts";
import type { DType, Tensor } from "./tensor.ts";

/** Bind groups kept before the cache is emptied: a bound on memory, far above what a training step uses. */
const MOST_BIND_GROUPS = 16384;

export interface GpuOptions {
  /** Which adapter: see requestAdapter. */
  readonly adapter?: string;
  /** Fill every arena tensor with NaN when it is made (tests: catches kernels that read what nobody wrote). */
  readonly poison?: boolean;
  /** Lower the binding limit, in bytes (tests of the windows past it). */
  readonly maxBindingBytes?: number;
}

/**
 * The GPU of this process: adapter, device, buffers, compiled programs. Everything above talks to it through
 * `parameter`, `step`, `warm` and `read`. `close` (or `using`) ends it; without that the process would not exit.
 */
export class Gpu {
  readonly buffers: Buffers;
  readonly programs: Programs;
  readonly profile: Profile | null;
  readonly features: ReadonlySet<string>;
  /** Largest range of a buffer that one binding may cover, in bytes. */
  readonly maxBindingBytes: number;
  poison: boolean;
  /**
   * Invocations of a subgroup when its size is fixed and kernels do better by sharing registers across it than by
   * reading the same memory in every lane: on software adapters, where each lane pays for its own load, and lanes that read
   * neighbours gain nothing (norms then have one lane a row). 0: elsewhere.
   */
  sharedSubgroup: number;
  /** The tensor cores that products use, or null: the device has none, or it is software, where others are faster. */
  subgroupMatrix: SubgroupMatrix | null;
  /** The first error of the device, rethrown by whatever is awaited next. */
  failure: Error | null = null;

  private readonly bindGroups = new Map<string, { group: GPUBindGroup; buffers: number[] }>();
  private readonly staging = new Map<number, Pooled[]>();
  private stagingId = 0;
  private current: Step | null = null;
  private closed = false;
  /** Memory of this device that the host is filling (`whileFilling`). */
  private readonly fills = new Set<Promise<void>>();
  private readonly scratch = new DataView(new ArrayBuffer(64));
  /** Bind groups created since the start: flat in steady state. */
  bindGroupsCreated = 0;

  private constructor(
    /** Keeps Dawn's instance alive as long as the device. */
    readonly instance: GPU,
    readonly device: GPUDevice,
    /** Human-readable name of the adapter, kept in run folders and benchmark results. */
    readonly adapterName: string,
    /** True for adapters that compute on the CPU. */
    readonly software: boolean,
    /** What to tell the user about the adapter (software adapters are slow), or null. */
    readonly notice: string | null,
    options: GpuOptions,
    /** The tensor cores that the device has, used or not. */
    readonly offeredMatrix: SubgroupMatrix | null,
  ) {
    this.features = new Set(device.features as unknown as Iterable<string>);
    this.maxBindingBytes = Math.min(
      options.maxBindingBytes ?? Number.POSITIVE_INFINITY,
      device.limits.maxStorageBufferBindingSize,
    );
    this.poison = options.poison ?? false;
    const { subgroupMinSize, subgroupMaxSize } = device.adapterInfo;
    const fixed = this.features.has("subgroups") && subgroupMinSize === subgroupMaxSize;
    this.sharedSubgroup = software && fixed ? (subgroupMinSize ?? 0) : 0;
    this.subgroupMatrix = software ? null : offeredMatrix;
    this.buffers = new Buffers(device, (id) => this.dropBindGroups(id));
    this.programs = new Programs(device);
    const profiles = process.env.LASER_PROFILE === "1";
    this.profile = profiles && this.features.has("timestamp-query") ? new Profile(device) : null;
    device.addEventListener("uncapturederror", (event) =>
      this.fail((event as GPUUncapturedErrorEvent).error),
    );
    void device.lost.then((info) => {
      if (!this.closed)
        this.failure ??= new GpuLostError(`the GPU was lost (${info.reason}): ${info.message}`);
    });
  }

  /**
   * Opens the adapter that the options, LASER_ADAPTER or the machine suggest, with every feature the kernels can use
   * and the adapter's own limits. Throws UserError when there is none.
   */
  static async open(options: GpuOptions = {}): Promise<Gpu> {
    const { gpu, adapter, name, software, notice } = await requestAdapter({ adapter: options.adapter });
    const wanted = ["shader-f16", "subgroups", "timestamp-query", "chromium-experimental-subgroup-matrix"];
    const requiredFeatures = wanted.filter((feature) => adapter.features.has(feature)) as GPUFeatureName[];
    const { limits } = adapter;
    const device = await adapter.requestDevice({
      requiredFeatures,
      requiredLimits: {
        maxBufferSize: limits.maxBufferSize,
        maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
        maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
        maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
        maxComputeWorkgroupSizeX: limits.maxComputeWorkgroupSizeX,
        maxStorageBuffersPerShaderStage: Math.min(16, limits.maxStorageBuffersPerShaderStage),
        maxImmediateSize: 64,
      } as Record<string, number>,
    });
    // From the adapter: the list of the device's own adapterInfo is empty (webgpu 0.6.2).
    const matrix = findSubgroupMatrix(new Set(requiredFeatures), adapter.info, software);
    const opened = new Gpu(gpu, device, name, software, notice, options, matrix);
    if (process.env.LASER_PROFILE === "1" && !opened.profile) {
      console.error(`LASER_PROFILE=1: nothing is measured, ${name} has no timestamp queries`);
    }
    return opened;
  }

  /**
   * A GPU that computes nothing and counts the bytes that one with these traits would hold: `buffers` tells them. What
   * is read from it is zero.
   */
  static counting(traits: AdapterTraits): Gpu {
    const device = countingDevice(traits);
    const { name, software, subgroupMatrix } = traits;
    return new Gpu(null as unknown as GPU, device, name, software, null, {}, subgroupMatrix);
  }

  /** What a recording depends on. */
  get traits(): AdapterTraits {
    return {
      name: this.adapterName,
      software: this.software,
      sharedSubgroup: this.sharedSubgroup,
      subgroupMatrix: this.subgroupMatrix,
      maxBufferBytes: this.device.limits.maxBufferSize,
      maxBindingBytes: this.maxBindingBytes,
    };
  }

  private fail(error: GPUError): void {
    const message = error.message.split("\n")[0];
    if (error instanceof GPUOutOfMemoryError) {
      this.failure ??= new GpuOutOfMemoryError(
        `the GPU is out of memory with ${Math.round(this.buffers.bytes / 2 ** 20)} MiB allocated: ${message}`,
      );
    } else this.failure ??= new GpuValidationError(message);
  }

  /** Throws the device's error, if there was one. */
  check(): void {
    if (this.failure) throw this.failure;
  }

  /** A tensor that lives until `release`, zero or holding `data`. Throws GpuOutOfMemoryError. */
  parameter(shape: readonly number[], dtype: DType = "f32", data?: HostArray): Tensor {
    const tensor = this.buffers.allocate(shape, dtype);
    if (this.failure) this.release(tensor);
    this.check();
    if (data) this.write(tensor, data);
    return tensor;
  }

  /** Ends a persistent tensor. */
  release(tensor: Tensor): void {
    this.buffers.release(tensor);
  }

  /** Overwrites a tensor with host data of the same byte length; ordered after every step submitted before. */
  write(tensor: Tensor, data: HostArray | Uint16Array<ArrayBuffer>): void {
    if (data.byteLength > tensor.bytes || data.byteLength < tensor.bytes - 3) {
      throw new Error(
        `write of ${data.byteLength} bytes into a tensor [${tensor.shape}] of ${tensor.bytes} bytes`,
      );
    }
    if (data.byteLength) this.device.queue.writeBuffer(tensor.buffer, tensor.offset, data);
  }

  /** Waits until everything written or submitted so far has reached the GPU; frees the memory that staged it. */
  async flush(): Promise<void> {
    this.device.queue.submit([]);
    await this.device.queue.onSubmittedWorkDone();
    this.check();
  }

  /** Begins recording. One step records at a time: submit it before beginning the next. */
  step(label: string): Step {
    this.check();
    if (this.current)
      throw new Error(`step "${label}" begins while "${this.current.label}" is still being recorded`);
    this.device.pushErrorScope("validation");
    this.device.pushErrorScope("out-of-memory");
    this.current = new Step(this, label, null);
    return this.current;
  }

  /**
   * Runs a recording dry and compiles every program it would use, in parallel. The recording must not await
   * anything of the step.
   */
  async warm(record: (step: Step) => void): Promise<void> {
    const programs = new Set<Program>();
    record(new Step(this, "warm", programs));
    await this.programs.compile(programs);
  }

  /** Reads a persistent tensor back. */
  async read(tensor: Tensor): Promise<Float32Array | Uint32Array | Int32Array> {
    const step = this.step("read");
    const data = step.read(tensor);
    await step.submit();
    return data;
  }

  /** Called by Step.submit: closes the error scopes and tells when the GPU is done. */
  finishStep(): Promise<void> {
    this.current = null;
    const memory = this.device.popErrorScope();
    const validation = this.device.popErrorScope();
    const done = this.device.queue.onSubmittedWorkDone();
    const finished = (async () => {
      for (const scope of [memory, validation]) {
        const error = await scope;
        if (error) this.fail(error);
      }
      await done;
      this.check();
    })();
    finished.catch(() => {});
    return finished;
  }

  /** The bind group of these tensors for a kernel, made once per combination. */
  bindGroup(kernel: Kernel, bindings: Record<string, Tensor>): GPUBindGroup {
    const { group: layout } = this.programs.layout(kernel);
    let key = `${kernel.bindings.length}:${kernel.paramBytes}`;
    for (const { name, access } of kernel.bindings) {
      const tensor = bindings[name];
      if (!tensor) throw new Error(`${kernel.name} needs a tensor for binding ${name}`);
      key += `|${access === "read" ? "r" : "w"}${tensor.bufferId}.${tensor.offset}.${this.bindingBytes(tensor, kernel.name, name)}`;
    }
    const cached = this.bindGroups.get(key);
    if (cached) return cached.group;
    const group = this.device.createBindGroup({
      label: kernel.name,
      layout,
      entries: kernel.bindings.map(({ name, binding }) => {
        const { buffer, offset } = bindings[name];
        return {
          binding,
          resource: { buffer, offset, size: this.bindingBytes(bindings[name], kernel.name, name) },
        };
      }),
    });
    if (this.bindGroups.size >= MOST_BIND_GROUPS) this.bindGroups.clear();
    this.bindGroups.set(key, { group, buffers: kernel.bindings.map(({ name }) => bindings[name].bufferId) });
    this.bindGroupsCreated++;
    return group;
  }

  private bindingBytes(tensor: Tensor, kernel: string, name: string): number {
    if (tensor.bytes > this.maxBindingBytes) {
      throw new GpuBindingError(
        `${kernel}: binding ${name} [${tensor.shape}] has ${tensor.bytes} bytes, more than one binding may cover (${this.maxBindingBytes}); bind it in windows`,
      );
    }
    // An arena tensor is bound with its whole buffer, so that tensors of one size class share a bind group.
    if (!this.buffers.isPersistent(tensor.bufferId) && tensor.offset === 0) {
      return Math.min(tensor.buffer.size, this.device.limits.maxStorageBufferBindingSize);
    }
    // Nothing is bound as one group of four elements, the least that a kernel may ask for.
    return Math.max(4, tensor.bytes || 16);
  }

  private dropBindGroups(bufferId: number): void {
    for (const [key, entry] of this.bindGroups)
      if (entry.buffers.includes(bufferId)) this.bindGroups.delete(key);
  }

  /** Packs a kernel's scalars as its Params struct lays them out. */
  packParams(kernel: Kernel, params: Record<string, number>): ArrayBuffer {
    for (const { name, type, offset } of kernel.params) {
      const value = params[name];
      if (value === undefined) throw new Error(`${kernel.name} needs the scalar ${name}`);
      if (type === "f32") this.scratch.setFloat32(offset, value, true);
      else if (type === "u32") this.scratch.setUint32(offset, value, true);
      else this.scratch.setInt32(offset, value, true);
    }
    return this.scratch.buffer.slice(0, kernel.paramBytes) as ArrayBuffer;
  }

  /** A mappable buffer of at least this many bytes, from a pool. */
  takeStaging(bytes: number): Pooled {
    const size = this.buffers.classOf(bytes);
    const found = this.staging.get(size)?.pop();
    if (found) return found;
    const buffer = this.device.createBuffer({
      size,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    return { buffer, id: --this.stagingId, bytes: size };
  }

  giveBackStaging(pooled: Pooled): void {
    const list = this.staging.get(pooled.bytes);
    if (list) list.push(pooled);
    else this.staging.set(pooled.bytes, [pooled]);
  }

  /**
   * Ends the device: the process can exit. What is still running or begun later fails with GpuLostError. Prints the
   * profile when LASER_PROFILE=1.
   */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.failure ??= new GpuLostError("the GPU was closed");
    if (this.profile) {
      console.error(this.profile.report());
      this.profile.destroy();
    }
    this.bindGroups.clear();
    if (this.fills.size === 0) this.device.destroy();
    else void Promise.allSettled(this.fills).then(() => this.device.destroy());
  }

  /**
   * Keeps the device's memory until `fill` has settled, should `close` come before: a thread of the host writes into a
   * mapped buffer (a file is being read), whose memory goes with the device.
   */
  whileFilling(fill: Promise<void>): Promise<void> {
    this.fills.add(fill);
    return fill.finally(() => this.fills.delete(fill));
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
