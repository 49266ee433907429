import type { Gpu } from "./device.ts";
import { Tensor } from "./tensor.ts";

/**
 * Memory that the host fills in place and the GPU copies from: a file is read straight into it, where Gpu.write would copy
 * what was read. Its owner ends it with `destroy`.
 */
export class UploadBuffer {
  private readonly buffer: GPUBuffer;

  /** @param bytes its size, a multiple of 8. */
  constructor(
    private readonly gpu: Gpu,
    private readonly bytes: number,
  ) {
    this.buffer = gpu.device.createBuffer({
      label: "upload",
      size: bytes,
      usage: GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC,
    });
  }

  /** Has `fill` write into the memory, once the GPU has done what was submitted with it. */
  async fill(fill: (memory: Uint8Array<ArrayBuffer>) => Promise<void>): Promise<void> {
    await this.buffer.mapAsync(GPUMapMode.WRITE);
    await this.gpu.whileFilling(fill(new Uint8Array(this.buffer.getMappedRange(0, this.bytes))));
  }

  /** What was filled: its first u32 words, for Step.copy alone. The host no longer has the memory. */
  tensor(words: number): Tensor {
    this.buffer.unmap();
    return new Tensor(this.buffer, 0, [words], "u32", 0);
  }

  destroy(): void {
    this.buffer.destroy();
  }
}
