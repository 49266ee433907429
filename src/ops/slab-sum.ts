import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** out (+)= the sum of partials [slabs, ...] over the slabs, in order: as many elements as a slab has. */
export function sumSlabs(step: Step, partials: Tensor, out: Tensor, accumulate: boolean): void {
  const [splits] = partials.shape;
  const size = partials.size / splits;
  step.run(kernels.product_sum, {
    bindings: { partials, c: out },
    params: { size, splits },
    overrides: { ACCUMULATE: accumulate },
    workgroups: gridOf(Math.ceil(size / 64)),
    cost: { flops: partials.size, bytes: partials.bytes + 4 * size },
  });
}
