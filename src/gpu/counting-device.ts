import type { SubgroupMatrix } from "./subgroup-matrix.ts";

/**
 * A device that computes nothing: its buffers have sizes and no memory. What is recorded on it goes through the same
 * pool, windows and checks as on a GPU, so the bytes it counts are those that a GPU would hold. See Gpu.counting.
 */

/** What the recording of a step depends on. */
export interface AdapterTraits {
  /** For messages. */
  readonly name: string;
  /** Computes on the CPU, in main memory. */
  readonly software: boolean;
  /** Invocations of a subgroup where kernels share registers across it, else 0 (Gpu.sharedSubgroup). */
  readonly sharedSubgroup: number;
  /** The tensor cores that products use, which take their left operand packed (Gpu.subgroupMatrix). */
  readonly subgroupMatrix: SubgroupMatrix | null;
  readonly maxBufferBytes: number;
  readonly maxBindingBytes: number;
}

/** A GPU of which nothing is known but what NVIDIA's driver and WebGPU say of most: bindings of 2 GiB - 4. */
export const ANY_GPU: AdapterTraits = {
  name: "any GPU",
  software: false,
  sharedSubgroup: 0,
  subgroupMatrix: { rows: 16, columns: 16, depth: 16, lanes: 32 },
  maxBufferBytes: Number.MAX_SAFE_INTEGER,
  maxBindingBytes: 2 ** 31 - 4,
};

const nothing = () => {};

/** WebGPU's own values of the constants that recording uses, where no adapter has installed them yet. */
const CONSTANTS: Readonly<Record<string, Record<string, number>>> = {
  GPUBufferUsage: { MAP_READ: 0x1, COPY_SRC: 0x4, COPY_DST: 0x8, STORAGE: 0x80 },
  GPUShaderStage: { COMPUTE: 0x4 },
  GPUMapMode: { READ: 0x1 },
};

function buffer({ size }: GPUBufferDescriptor) {
  const mapped = (_offset: number, bytes: number) => new ArrayBuffer(bytes);
  return { size, destroy: nothing, mapAsync: async () => {}, getMappedRange: mapped, unmap: nothing };
}

function pass() {
  return {
    setPipeline: nothing,
    setBindGroup: nothing,
    setImmediates: nothing,
    dispatchWorkgroups: nothing,
    end: nothing,
  };
}

function encoder() {
  return { beginComputePass: pass, copyBufferToBuffer: nothing, clearBuffer: nothing, finish: () => ({}) };
}

/** The part of GPUDevice that src/gpu calls, without effect. */
export function countingDevice(traits: AdapterTraits): GPUDevice {
  for (const [name, values] of Object.entries(CONSTANTS)) {
    if (!(name in globalThis)) Object.assign(globalThis, { [name]: values });
  }
  const { sharedSubgroup: lanes, maxBufferBytes, maxBindingBytes } = traits;
  const object = () => ({});
  return {
    features: new Set(lanes ? ["subgroups"] : []),
    limits: { maxBufferSize: maxBufferBytes, maxStorageBufferBindingSize: maxBindingBytes },
    adapterInfo: { subgroupMinSize: lanes, subgroupMaxSize: lanes },
    lost: new Promise(nothing),
    queue: { submit: nothing, writeBuffer: nothing, onSubmittedWorkDone: async () => {} },
    createBuffer: buffer,
    createCommandEncoder: encoder,
    createBindGroup: object,
    createBindGroupLayout: object,
    createPipelineLayout: object,
    createShaderModule: object,
    createComputePipeline: object,
    createComputePipelineAsync: async () => ({}),
    pushErrorScope: nothing,
    popErrorScope: async () => null,
    addEventListener: nothing,
    destroy: nothing,
  } as unknown as GPUDevice;
}
