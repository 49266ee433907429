import { Random } from "../data/random.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import { sizeOf, Tensor } from "../gpu/tensor.ts";

/** How a parameter starts: N(0, std) or a constant. */
export type Initial = { readonly normal: number } | { readonly constant: number };

/** One named tensor of a checkpoint. */
export interface Component {
  readonly name: string;
  readonly shape: readonly number[];
  readonly initial: Initial;
}

/**
 * A trainable tensor: a range of the store's flat value buffer, and the same range of its gradient buffer. It may be
 * made of several named components stacked along the first axis (query, key and value weights, say), which are then
 * multiplied in one product but kept under their own names in checkpoints.
 */
export class Parameter {
  value!: Tensor;
  grad!: Tensor;
  /** True while no gradient has been written since `clearGradients`: the next one overwrites, later ones add. */
  fresh = true;

  constructor(
    readonly components: readonly Component[],
    readonly shape: readonly number[],
    /** Products with it, and its gradient, may round their operands to f16, as tensor cores multiply them. */
    readonly half: boolean,
  ) {}

  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }
}

/** Start of a parameter's range in the flat buffers, in elements: the binding alignment of every adapter. */
const ALIGNMENT = 64;

/**
 * All trainable parameters of a model in one flat buffer, with their gradients in another: the optimiser, the
 * gradient norm and the checkpoint each see one array. Declare parameters first (modules do it in their
 * constructors), then `build`.
 */
export class Parameters {
  readonly list: Parameter[] = [];
  private readonly starts: number[] = [];
  private readonly names = new Set<string>();
  private elements = 0;
  values!: Tensor;
  gradients!: Tensor;

  /** `half`: see Parameter. */
  constructor(private readonly half = false) {}

  /** Declares a parameter of one component. */
  declare(name: string, shape: readonly number[], initial: Initial): Parameter {
    return this.declareStacked([{ name, shape, initial }]);
  }

  /** Declares components of equal width, stacked along the first axis. */
  declareStacked(components: readonly Component[]): Parameter {
    for (const { name } of components) {
      if (this.names.has(name)) throw new Error(`parameter ${name} is declared twice`);
      this.names.add(name);
    }
    const [first] = components;
    const rows = components.reduce((sum, c) => sum + (c.shape[0] ?? 1), 0);
    const shape = components.length === 1 ? first.shape : [rows, ...first.shape.slice(1)];
    const parameter = new Parameter(components, shape, this.half);
    this.list.push(parameter);
    this.starts.push(this.elements);
    this.elements += Math.ceil(parameter.size / ALIGNMENT) * ALIGNMENT;
    return parameter;
  }

  /** Number of trainable values (without the alignment gaps). */
  get count(): number {
    return this.list.reduce((sum, parameter) => sum + parameter.size, 0);
  }

  /** Elements of the flat buffers. */
  get flatSize(): number {
    return this.elements;
  }

  /** Allocates the flat buffers and draws the initial values: each component from its own stream (seed, name). */
  build(gpu: Gpu, seed: number): void {
    const host = new Float32Array(this.elements);
    this.forEachComponent((component, start) => {
      const size = sizeOf(component.shape);
      if ("constant" in component.initial) host.fill(component.initial.constant, start, start + size);
      else {
        const random = new Random(seed, "initial", component.name);
        for (let i = 0; i < size; i++) host[start + i] = component.initial.normal * random.normal();
      }
    });
    this.allocate(gpu);
    gpu.write(this.values, host);
  }

  /** Allocates the flat buffers, all zeros. */
  allocate(gpu: Gpu): void {
    this.values = gpu.parameter([this.elements], "f32");
    this.gradients = gpu.parameter([this.elements], "f32");
    this.list.forEach((parameter, i) => {
      const range = (flat: Tensor) =>
        new Tensor(flat.buffer, this.starts[i] * 4, parameter.shape, "f32", flat.bufferId);
      parameter.value = range(this.values);
      parameter.grad = range(this.gradients);
    });
  }

  private forEachComponent(visit: (component: Component, start: number) => void): void {
    this.list.forEach((parameter, i) => {
      let start = this.starts[i];
      for (const component of parameter.components) {
        visit(component, start);
        start += sizeOf(component.shape);
      }
    });
  }

  /** Marks every gradient as absent: the next backward pass overwrites. */
  clearGradients(): void {
    for (const parameter of this.list) parameter.fresh = true;
  }

  /** Zeroes the gradients that no backward pass wrote, so that the optimiser reads no stale values. */
  settleGradients(step: Step): void {
    for (const parameter of this.list) {
      if (parameter.fresh) step.zero(parameter.grad);
      parameter.fresh = false;
    }
  }

  /** Cuts flat host values into named components. */
  split(flat: Float32Array): Map<string, { shape: readonly number[]; data: Float32Array<ArrayBuffer> }> {
    const named = new Map<string, { shape: readonly number[]; data: Float32Array<ArrayBuffer> }>();
    this.forEachComponent(({ name, shape }, start) => {
      named.set(name, { shape, data: flat.slice(start, start + sizeOf(shape)) as Float32Array<ArrayBuffer> });
    });
    return named;
  }

  /** The reverse of `split`. Throws UserError naming `source` and the component that is missing or misshapen. */
  join(
    find: (name: string) => { shape: readonly number[]; data: Float32Array } | undefined,
    source: string,
  ): Float32Array<ArrayBuffer> {
    const flat = new Float32Array(this.elements);
    this.forEachComponent(({ name, shape }, start) => {
      const found = find(name);
      if (!found) throw new UserError(`${source}: tensor ${name} is missing; expected shape [${shape}]`);
      if (found.shape.join() !== shape.join()) {
        throw new UserError(`${source}: tensor ${name} has shape [${found.shape}], expected [${shape}]`);
      }
      flat.set(found.data, start);
    });
    return flat;
  }

  /** Ends the flat buffers. */
  release(gpu: Gpu): void {
    gpu.release(this.values);
    gpu.release(this.gradients);
  }
}
