import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { ProductShape } from "./product.ts";

/**
 * C [M, N] = A B as plainly as can be: what `product` is measured and tested against (bench/ladder.js). f32, without
 * margins. transposeA: A lies as [K, M]; transposeB: B lies as [N, K].
 */
export function productNaive(
  step: Step,
  a: Tensor,
  b: Tensor,
  c: Tensor,
  { m, n, k }: ProductShape,
  { transposeA = false, transposeB = false }: { transposeA?: boolean; transposeB?: boolean },
): void {
  const [a_row, a_step] = transposeA ? [1, m] : [k, 1];
  const [b_row, b_step] = transposeB ? [1, k] : [n, 1];
  step.run(kernels.product_naive, {
    bindings: { a, b, c },
    params: { m, n, k, a_row, a_step, b_row, b_step },
    workgroups: [Math.ceil(n / 16), Math.ceil(m / 16)],
    cost: { flops: 2 * m * n * k, bytes: 4 * (m * k + m * n + n * k) },
  });
}
