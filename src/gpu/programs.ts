import type { Kernel } from "./kernel.ts";

/** A kernel compiled for one set of override constants. */
export interface Program {
  readonly key: string;
  readonly kernel: Kernel;
  readonly id: number;
  pipeline: GPUComputePipeline | null;
}

type Overrides = Readonly<Record<string, number | boolean | undefined>>;

/**
 * The cache of compiled programs. Programs that a recording will need are compiled in parallel by `compile`; a
 * program first met while recording for real is compiled on the spot (slower, never wrong).
 */
export class Programs {
  private readonly programs = new Map<string, Program>();
  private readonly modules = new Map<string, GPUShaderModule>();
  private readonly layouts = new Map<string, { group: GPUBindGroupLayout; pipeline: GPUPipelineLayout }>();

  constructor(private readonly device: GPUDevice) {}

  /** Number of programs known. */
  get count(): number {
    return this.programs.size;
  }

  /** The program of a kernel under these constants, not necessarily compiled yet. */
  get(kernel: Kernel, overrides: Overrides | undefined): Program {
    let key = kernel.name;
    if (overrides) for (const name in overrides) key += `,${name}=${Number(overrides[name])}`;
    let program = this.programs.get(key);
    if (!program) {
      for (const name in overrides) {
        if (!kernel.overrides.some((o) => o.name === name))
          throw new Error(`${kernel.name} has no override ${name}`);
      }
      program = { key, kernel, id: this.programs.size, pipeline: null };
      this.programs.set(key, program);
      this.constants.set(program, overrides ?? {});
    }
    return program;
  }
  private readonly constants = new Map<Program, Overrides>();

  /** The bind group layout of a kernel: its storage buffers in order. */
  layout(kernel: Kernel): { group: GPUBindGroupLayout; pipeline: GPUPipelineLayout } {
    // Kernels with the same access pattern share a layout.
    const key = `${kernel.bindings.map((b) => (b.access === "read" ? "r" : "w")).join("")}:${kernel.paramBytes}`;
    let layout = this.layouts.get(key);
    if (!layout) {
      const group = this.device.createBindGroupLayout({
        entries: kernel.bindings.map((b) => ({
          binding: b.binding,
          visibility: GPUShaderStage.COMPUTE,
          buffer: { type: b.access === "read" ? "read-only-storage" : "storage" },
        })),
      });
      const descriptor: GPUPipelineLayoutDescriptor = {
        bindGroupLayouts: [group],
        immediateSize: kernel.paramBytes,
      };
      layout = { group, pipeline: this.device.createPipelineLayout(descriptor) };
      this.layouts.set(key, layout);
    }
    return layout;
  }

  private descriptor(program: Program): GPUComputePipelineDescriptor {
    const { kernel } = program;
    let module = this.modules.get(kernel.name);
    if (!module) {
      module = this.device.createShaderModule({ label: kernel.name, code: kernel.source });
      this.modules.set(kernel.name, module);
    }
    const constants: Record<string, number> = {};
    const overrides = this.constants.get(program)!;
    for (const name in overrides)
      if (overrides[name] !== undefined) constants[name] = Number(overrides[name]);
    return {
      label: program.key,
      layout: this.layout(kernel).pipeline,
      compute: { module, entryPoint: "main", constants },
    };
  }

  /** The pipeline, compiled now when it has not been before. */
  pipeline(program: Program): GPUComputePipeline {
    program.pipeline ??= this.device.createComputePipeline(this.descriptor(program));
    return program.pipeline;
  }

  /** Compiles programs in parallel. Rejects with the first compile error, naming the kernel. */
  async compile(programs: Iterable<Program>): Promise<void> {
    const missing = [...new Set(programs)].filter((program) => !program.pipeline);
    await Promise.all(
      missing.map(async (program) => {
        try {
          program.pipeline = await this.device.createComputePipelineAsync(this.descriptor(program));
        } catch (error) {
          throw new Error(`kernel ${program.key} does not compile: ${(error as Error).message}`);
        }
      }),
    );
  }
}
