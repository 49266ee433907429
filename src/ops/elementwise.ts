import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { inGroups } from "./groups.ts";

/** The grid of an elementwise kernel: 256 lanes a workgroup, four elements a lane. */
export const elementGrid = (count: number) => gridOf(Math.ceil(count / 1024));

function sameSize(what: string, a: Tensor, b: Tensor): void {
  if (a.size !== b.size) throw new Error(`${what} of [${a.shape}] and [${b.shape}]`);
}

/** a + b, of the same size; the result has the shape of a. */
export function add(step: Step, a: Tensor, b: Tensor): Tensor {
  sameSize("sum", a, b);
  const count = a.size;
  const y = step.tensor(a.shape);
  const { kernel, group } = inGroups(kernels.add, count);
  step.run(kernel, {
    bindings: { a, b, y },
    params: { count: count / group },
    workgroups: elementGrid(count),
    cost: { flops: count, bytes: 12 * count },
  });
  return y;
}

/** factor * x. */
export function scale(step: Step, x: Tensor, factor: number): Tensor {
  const count = x.size;
  const y = step.tensor(x.shape);
  const { kernel, group } = inGroups(kernels.scale, count);
  step.run(kernel, {
    bindings: { x, y },
    params: { count: count / group, factor },
    workgroups: elementGrid(count),
    cost: { flops: count, bytes: 8 * count },
  });
  return y;
}

/** y += factor * x in place. x and y have the same size and lie in different buffers. */
export function axpy(step: Step, x: Tensor, y: Tensor, factor: number): void {
  sameSize("axpy", x, y);
  if (x.bufferId === y.bufferId && x.buffer) throw new Error("axpy reads and writes the same buffer");
  const count = x.size;
  const { kernel, group } = inGroups(kernels.axpy, count);
  step.run(kernel, {
    bindings: { x, y },
    params: { count: count / group, factor },
    workgroups: elementGrid(count),
    cost: { flops: 2 * count, bytes: 12 * count },
  });
}
