import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** Writes zeros; unlike Step.zero within the compute pass. */
export function fillZero(step: Step, y: Tensor): void {
  step.run(kernels.fill, {
    bindings: { y },
    params: { count: y.size, value: 0 },
    workgroups: gridOf(Math.ceil(y.size / 256)),
  });
}
