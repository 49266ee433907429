import type { Step } from "../../gpu/step.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Dump, ShapePattern } from "./dump.ts";

/** What this project computed for one output of a dump. */
export interface Output {
  readonly values: ArrayLike<number>;
  readonly shape: ShapePattern;
  /** Compared to the last digit: whole numbers and ranks. */
  readonly exact: boolean;
}

/** The outputs of one case, under their names in the dump. Values that the file does not hold are not read back. */
export class Outputs {
  private readonly computed = new Map<string, Output>();
  private readonly skipped = new Map<string, string>();
  private readonly reads: Promise<void>[] = [];

  constructor(private readonly dump: Dump) {}

  /** Reads a tensor as it is at this point of the step. Its elements are in the order of `shape`. */
  read(step: Step, name: string, tensor: Tensor, shape: ShapePattern, exact = false): void {
    this.readAs(step, name, tensor, shape, (values) => values, exact);
  }

  /** As `read`, with a computation on the host in between. */
  readAs(
    step: Step,
    name: string,
    tensor: Tensor,
    shape: ShapePattern,
    map: (values: ArrayLike<number>) => ArrayLike<number>,
    exact = false,
  ): void {
    if (!this.dump.has(name)) return;
    const done = step.read(tensor).then((values) => this.set(name, map(values), shape, exact));
    // The step rejects too, and is awaited first.
    done.catch(() => {});
    this.reads.push(done);
  }

  /** Values computed on the host. */
  set(name: string, values: ArrayLike<number>, shape: ShapePattern, exact = false): void {
    if (this.dump.has(name)) this.computed.set(name, { values, shape, exact });
  }

  /** A known output that is not compared, and why. */
  skip(name: string, reason: string): void {
    this.skipped.set(name, reason);
  }

  /** Waits for the values; the steps must have been submitted. */
  async settle(): Promise<void> {
    await Promise.all(this.reads);
  }

  get(name: string): Output | undefined {
    return this.computed.get(name);
  }

  /** Why a known output is not compared, if so. */
  reasonToSkip(name: string): string | undefined {
    return this.skipped.get(name);
  }
}
