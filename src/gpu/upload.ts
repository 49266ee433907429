import { Tensor } from "./tensor.ts";

/**
 * Memory that the host fills in place and the GPU copies from: a file is read straight into it, where Gpu.write would copy
 * what was read. Its owner ends it with `destroy`.
 */
export class UploadBuffer {
  private readonly buffer: GPUBuffer;

  /** @param bytes its size, a multiple of 8. */
  constructor(
    device: GPUDevice,
    private readonly bytes: number,
  ) {
    this.buffer = device.createBuffer({
      label: "upload",
      size: bytes,
      usage: GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC,
    });
  }

  /** The memory to fill, once the GPU has done what was submitted with it; valid until `tensor`. */
  async map(): Promise<Uint8Array<ArrayBuffer>> {
    await this.buffer.mapAsync(GPUMapMode.WRITE);
    return new Uint8Array(this.buffer.getMappedRange(0, this.bytes));
  }

  /** Its first u32 words, for Step.copy alone; the host no longer sees the memory. */
  tensor(words: number): Tensor {
    this.buffer.unmap();
    return new Tensor(this.buffer, 0, [words], "u32", 0);
  }

  destroy(): void {
    this.buffer.destroy();
  }
}
