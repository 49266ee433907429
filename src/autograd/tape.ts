import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { add } from "../ops/elementwise.ts";

/** A value of the computation and, after its consumers' backward passes, its gradient. */
export class Variable {
  grad: Tensor | null = null;
  constructor(
    readonly value: Tensor,
    /** False for constants: no gradient is computed or kept. */
    readonly needsGrad: boolean,
  ) {}
}

export interface TapeOptions {
  /** Record backward passes. False for evaluation: values live no longer than their scope (see Tape.scope). */
  readonly gradients: boolean;
  /** Key of the dropout generator (seed, step), or null for no dropout. */
  readonly dropout: { readonly seed: number; readonly step: number } | null;
}

/**
 * Reverse-mode differentiation over one Step. Every differentiable operation computes its value at once and records
 * how its gradient flows; `backward` runs the records in reverse. A value and its gradient are given back to the
 * arena as soon as no later backward pass can need them.
 */
export class Tape {
  private readonly nodes: { outputs: readonly Variable[]; saved: readonly Tensor[]; backward: () => void }[] =
    [];
  /** Gradient tensors that several variables share: how many still hold each, by buffer. */
  private readonly holders = new Map<number, number>();
  private sites = 0;
  /** Values made in the innermost open scope; null outside of scopes, and always when gradients are recorded. */
  private made: Set<Tensor> | null = null;

  constructor(
    readonly step: Step,
    readonly options: TapeOptions,
  ) {}

  /** A value that no gradient is wanted for. */
  constant(value: Tensor): Variable {
    return new Variable(value, false);
  }

  /** Marks a trainable parameter as an input of `result`. */
  static readonly TRAINABLE = new Variable(null as unknown as Tensor, true);

  /** A leaf whose gradient is wanted (tests; inputs of a module under test). */
  leaf(value: Tensor): Variable {
    return new Variable(value, this.options.gradients);
  }

  /** The next dropout site: numbered in the order of the calls, so that a repeated step draws the same masks. */
  nextSite(): number {
    return this.sites++;
  }

  /**
   * Makes the output of an operation. `backward` receives the output's gradient and must hand gradients to the
   * inputs with `give`; it is not recorded when no input needs one. `saved` tensors are freed after it ran.
   */
  result(
    value: Tensor,
    inputs: readonly Variable[],
    saved: readonly Tensor[],
    backward: (grad: Tensor) => void,
  ): Variable {
    const needed = this.options.gradients && inputs.some((input) => input.needsGrad);
    const output = new Variable(value, needed);
    if (needed) {
      const run = () => {
        if (output.grad) backward(output.grad);
      };
      this.nodes.push({ outputs: [output], saved, backward: run });
    } else for (const tensor of saved) this.step.free(tensor);
    // A view of an input is the input's memory: it ends with that.
    if (!inputs.some((input) => input.value?.bufferId === value.bufferId)) this.made?.add(value);
    return output;
  }

  /**
   * A part of a model whose one result is what `run` returns. Without gradients every other value made inside is freed
   * when it ends, so that evaluation holds the values of one part, not of all; values from outside stay. With gradients
   * nothing is freed: `backward` does. No other variable made inside may be used outside.
   */
  scope(run: () => Variable): Variable {
    if (this.options.gradients) return run();
    const outer = this.made;
    const made = new Set<Tensor>();
    this.made = made;
    try {
      const output = run();
      this.freeAllBut(output);
      return output;
    } finally {
      this.made = outer;
      // What is left is the output's: it now belongs to the scope around.
      for (const value of made) outer?.add(value);
    }
  }

  /** Parts in a row, each a function of the one before it alone: a scope that ends every stage's values with the next. */
  chain(x: Variable, stages: readonly ((x: Variable) => Variable)[]): Variable {
    return this.scope(() => {
      let current = x;
      for (const stage of stages) {
        current = stage(current);
        this.freeAllBut(current);
      }
      return current;
    });
  }

  /** Frees what the innermost scope has made, except for one variable's value. */
  private freeAllBut(kept: Variable): void {
    if (!this.made) return;
    for (const value of this.made) {
      if (value.bufferId === kept.value.bufferId) continue;
      this.made.delete(value);
      this.step.free(value);
    }
  }

  /**
   * Records the end of a computation: a loss whose weight is known on the host. `backward` starts the gradients
   * flowing; it runs first, since it is recorded last.
   */
  loss(saved: readonly Tensor[], backward: () => void): void {
    if (this.options.gradients) this.nodes.push({ outputs: [], saved, backward });
    else for (const tensor of saved) this.step.free(tensor);
  }

  /** Hands a gradient to a variable: kept when it is the first, added when it is not. */
  give(variable: Variable, grad: Tensor): void {
    if (!variable.needsGrad) {
      this.drop(grad);
      return;
    }
    if (!variable.grad) {
      variable.grad = grad;
      return;
    }
    const sum = add(this.step, variable.grad, grad);
    this.drop(variable.grad);
    this.drop(grad);
    variable.grad = sum;
  }

  /** Declares that `grad` will be given to one more variable. */
  share(grad: Tensor): Tensor {
    this.holders.set(grad.bufferId, (this.holders.get(grad.bufferId) ?? 1) + 1);
    return grad;
  }

  private drop(grad: Tensor): void {
    const holders = this.holders.get(grad.bufferId) ?? 1;
    if (holders > 1) this.holders.set(grad.bufferId, holders - 1);
    else {
      this.holders.delete(grad.bufferId);
      this.step.free(grad);
    }
  }

  /**
   * Runs every recorded backward pass in reverse. The values of the computation are gone afterwards: read what you
   * want to see (Step.read) before.
   */
  backward(): void {
    for (let i = this.nodes.length - 1; i >= 0; i--) {
      const { outputs, saved, backward } = this.nodes[i];
      backward();
      for (const output of outputs) {
        if (output.grad) this.drop(output.grad);
        output.grad = null;
        this.step.free(output.value);
      }
      for (const tensor of saved) this.step.free(tensor);
    }
    this.nodes.length = 0;
  }
}
