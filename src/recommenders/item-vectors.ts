import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { embed } from "../ops/embedding.ts";
import type { Recommender } from "./recommender.ts";

/**
 * A recommender trained elsewhere, of which only the vectors of its items are known. C of a history is its items'
 * vectors, whatever stands around them; it has no scores of its own and cannot rank.
 */
export class ItemVectors implements Recommender {
  readonly label = "item vectors";
  /** There are no positions to run out of. */
  readonly maxLength = Number.POSITIVE_INFINITY;
  private readonly table: Tensor;

  /** `rows` [itemCount + 1, width]: the items' vectors, then what an unknown item is read as. */
  constructor(
    gpu: Gpu,
    readonly itemCount: number,
    readonly width: number,
    rows: Float32Array<ArrayBuffer>,
  ) {
    this.table = gpu.parameter([itemCount + 1, width], "f32", rows);
  }

  hiddenStates(step: Step, histories: readonly ArrayLike<number>[]): Tensor {
    const ids = histories.flatMap((history) =>
      Array.from(history, (item) => (item < this.itemCount ? item : this.itemCount)),
    );
    return embed(step, this.table, step.upload(Uint32Array.from(ids)));
  }

  release(gpu: Gpu): void {
    gpu.release(this.table);
  }
}
