import { bestFit, type Pooled } from "./buffers.ts";
import type { Gpu } from "./device.ts";
import { gridOf } from "./grid.ts";
import type { Dispatch, Kernel } from "./kernel.ts";
import { kernels } from "./kernels.generated.ts";
import type { Program } from "./programs.ts";
import type { SubgroupMatrix } from "./subgroup-matrix.ts";
import { bytesOf, type DType, sizeOf, Tensor } from "./tensor.ts";

export type HostArray = Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer> | Int32Array<ArrayBuffer>;

interface Readback {
  readonly staging: Pooled;
  readonly bytes: number;
  readonly dtype: DType;
  readonly resolve: (data: Float32Array | Uint32Array | Int32Array) => void;
  readonly reject: (error: unknown) => void;
}

/** NaN as bits; as an index it is far out of range. What poisoned arena tensors are filled with. */
const POISON = 0x7fc0dead;

/**
 * A unit of GPU work: kernels are recorded one after the other and go to the GPU in one submit. Its tensors live in
 * an arena: their buffers come from a pool, may be given back early with `free`, and all return at `submit`. A later
 * step may reuse them at once, because the queue runs submits in order.
 */
export class Step {
  private encoder: GPUCommandEncoder | null = null;
  private pass: GPUComputePassEncoder | null = null;
  private readonly owned = new Map<number, Pooled>();
  /** Buffers freed during this step, by size: reused for later tensors of the step, but never for uploads. */
  private readonly recycled = new Map<number, Pooled[]>();
  private readonly readbacks: Readback[] = [];
  private open = true;
  /** Dispatches recorded so far. */
  dispatches = 0;

  constructor(
    private readonly gpu: Gpu,
    readonly label: string,
    /** In a dry run: collects the programs instead of recording. */
    private readonly collect: Set<Program> | null,
  ) {}

  /** Largest range of a buffer that one binding may cover: larger weights are bound in windows. */
  get maxBindingBytes(): number {
    return this.gpu.maxBindingBytes;
  }

  /** Whether the adapter computes on the CPU. */
  get software(): boolean {
    return this.gpu.software;
  }

  /** See Gpu.sharedSubgroup. */
  get sharedSubgroup(): number {
    return this.gpu.sharedSubgroup;
  }

  /** See Gpu.subgroupMatrix. */
  get subgroupMatrix(): SubgroupMatrix | null {
    return this.gpu.subgroupMatrix;
  }

  /** An uninitialised tensor, valid until this step is submitted (or the tensor freed). */
  tensor(shape: readonly number[], dtype: DType = "f32"): Tensor {
    const tensor = this.take(shape, dtype, true);
    if (this.gpu.poison && !this.collect && tensor.size > 0) {
      const count = Math.ceil(tensor.bytes / 4);
      this.run(kernels.fill, {
        bindings: { y: tensor },
        params: { count, value: POISON },
        workgroups: gridOf(Math.ceil(count / 256)),
      });
    }
    return tensor;
  }

  /** An arena tensor holding host data; its element type follows the array's. */
  upload(data: HostArray, shape: readonly number[] = [data.length]): Tensor {
    const dtype = data instanceof Float32Array ? "f32" : data instanceof Uint32Array ? "u32" : "i32";
    if (sizeOf(shape) !== data.length) throw new Error(`upload of ${data.length} values as [${shape}]`);
    // writeBuffer happens before everything this step records: the buffer must not have served earlier in the step.
    const tensor = this.take(shape, dtype, false);
    if (!this.collect && data.length) this.gpu.device.queue.writeBuffer(tensor.buffer, tensor.offset, data);
    return tensor;
  }

  private take(shape: readonly number[], dtype: DType, mayRecycle: boolean): Tensor {
    this.assertOpen();
    const bytes = bytesOf(shape, dtype);
    if (this.collect) return new Tensor(null as unknown as GPUBuffer, 0, shape, dtype, 0);
    this.gpu.buffers.assertFits(shape, bytes);
    const recycled = mayRecycle ? bestFit(this.recycled, this.gpu.buffers.classOf(bytes)) : undefined;
    const pooled = recycled ?? this.gpu.buffers.take(bytes);
    this.owned.set(pooled.id, pooled);
    return new Tensor(pooled.buffer, 0, shape, dtype, pooled.id);
  }

  /** Whether the tensor belongs to this step's arena. */
  owns(tensor: Tensor): boolean {
    return this.owned.has(tensor.bufferId);
  }

  /** Gives an arena tensor back: tensors made later in this step may reuse its memory. Others are left alone. */
  free(tensor: Tensor): void {
    const pooled = this.owned.get(tensor.bufferId);
    if (!pooled) return;
    this.owned.delete(pooled.id);
    const list = this.recycled.get(pooled.bytes);
    if (list) list.push(pooled);
    else this.recycled.set(pooled.bytes, [pooled]);
  }

  private assertOpen(): void {
    if (!this.open) throw new Error(`step "${this.label}" was already submitted`);
  }

  private commands(): GPUCommandEncoder {
    this.encoder ??= this.gpu.device.createCommandEncoder({ label: this.label });
    return this.encoder;
  }

  private endPass(): void {
    this.pass?.end();
    this.pass = null;
  }

  /** Records one dispatch of a kernel. A zero in `workgroups` means there is nothing to do. */
  run<B extends string, P extends string, O extends string>(
    kernel: Kernel<B, P, O>,
    dispatch: Dispatch<B, P, O>,
  ): void {
    this.assertOpen();
    const [x, y = 1, z = 1] = dispatch.workgroups;
    if (x === 0 || y === 0 || z === 0) return;
    const program = this.gpu.programs.get(kernel, dispatch.overrides);
    if (this.collect) {
      this.collect.add(program);
      return;
    }
    const pipeline = this.gpu.programs.pipeline(program);
    const group = this.gpu.bindGroup(kernel, dispatch.bindings as Record<string, Tensor>);
    const timed = this.gpu.profile?.begin(program.key, dispatch.cost);
    if (timed) this.endPass();
    this.pass ??= this.commands().beginComputePass(timed ? { timestampWrites: timed } : undefined);
    this.pass.setPipeline(pipeline);
    this.pass.setBindGroup(0, group);
    if (kernel.paramBytes) {
      this.pass.setImmediates(0, this.gpu.packParams(kernel, dispatch.params as Record<string, number>));
    }
    this.pass.dispatchWorkgroups(x, y, z);
    this.dispatches++;
    if (timed) this.endPass();
  }

  /** Copies a tensor into another of the same byte length. */
  copy(from: Tensor, to: Tensor): void {
    this.assertOpen();
    if (from.bytes !== to.bytes) throw new Error(`copy of [${from.shape}] into [${to.shape}]`);
    if (this.collect || from.bytes === 0) return;
    this.endPass();
    this.commands().copyBufferToBuffer(from.buffer, from.offset, to.buffer, to.offset, from.bytes);
  }

  /** Fills a tensor with zeros. */
  zero(tensor: Tensor): void {
    this.assertOpen();
    if (this.collect || tensor.bytes === 0) return;
    this.endPass();
    this.commands().clearBuffer(tensor.buffer, tensor.offset, tensor.bytes);
  }

  /** Reads a tensor as it is at this point of the recording; resolves after `submit`. */
  read(tensor: Tensor): Promise<Float32Array | Uint32Array | Int32Array> {
    this.assertOpen();
    if (this.collect || tensor.size === 0)
      return Promise.resolve(hostView(new ArrayBuffer(tensor.bytes), tensor.dtype));
    this.endPass();
    const staging = this.gpu.takeStaging(tensor.bytes);
    this.commands().copyBufferToBuffer(tensor.buffer, tensor.offset, staging.buffer, 0, tensor.bytes);
    const promise = new Promise<Float32Array | Uint32Array | Int32Array>((resolve, reject) => {
      this.readbacks.push({ staging, bytes: tensor.bytes, dtype: tensor.dtype, resolve, reject });
    });
    // A failed step rejects every read; callers that only await submit() must not see an unhandled rejection.
    promise.catch(() => {});
    return promise;
  }

  /** Reads f32 values (see `read`). */
  readFloats(tensor: Tensor): Promise<Float32Array> {
    return this.read(tensor) as Promise<Float32Array>;
  }

  /**
   * Sends the recording to the GPU. Resolves when it has finished and the reads have their values; rejects with
   * GpuOutOfMemoryError, GpuLostError or GpuValidationError. The arena's buffers return to the pool at once.
   */
  submit(): Promise<void> {
    this.assertOpen();
    this.open = false;
    if (this.collect) return Promise.resolve();
    this.endPass();
    this.gpu.profile?.resolve(this.commands());
    const encoder = this.encoder;
    if (encoder) this.gpu.device.queue.submit([encoder.finish()]);
    const done = this.gpu.finishStep();
    const returned = [...this.owned.values()];
    for (const list of this.recycled.values()) returned.push(...list);
    returned.sort((a, b) => a.id - b.id);
    this.gpu.buffers.giveBack(returned);
    const reads = this.readbacks.map((readback) => this.finishRead(readback, done));
    const parts = Promise.all([this.gpu.profile?.collect(), ...reads]);
    parts.catch(() => {});
    // `done` first: its error has a name, those of the mappings that fail with it have none.
    const all = done.then(() => parts).then(() => undefined);
    all.catch(() => {});
    return all;
  }

  private async finishRead(readback: Readback, done: Promise<void>): Promise<void> {
    const { staging, bytes, dtype } = readback;
    try {
      const mapped = staging.buffer.mapAsync(GPUMapMode.READ, 0, bytes);
      mapped.catch(() => {});
      // The step's own error first: it has a name, that of a mapping which fails with it has none.
      await done;
      await mapped;
      const copy = staging.buffer.getMappedRange(0, bytes).slice(0);
      staging.buffer.unmap();
      this.gpu.giveBackStaging(staging);
      readback.resolve(hostView(copy, dtype));
    } catch (error) {
      readback.reject(error);
      throw error;
    }
  }
}

/** The host's view of bytes read back. f16 and quantised elements come as packed u32 words. */
function hostView(bytes: ArrayBuffer, dtype: DType): Float32Array | Uint32Array | Int32Array {
  if (dtype === "f32") return new Float32Array(bytes);
  return dtype === "i32" ? new Int32Array(bytes) : new Uint32Array(bytes);
}
