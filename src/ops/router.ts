import { UserError } from "../files/user-error.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { linearWeightGradient } from "./linear.ts";
import type { Packed } from "./packed.ts";

/** The most experts that the router kernels hold: one lane each. */
export const MOST_EXPERTS = 64;

/**
 * How the k chosen weights become gates: as they are (`weights`, the paper), through a softmax over the k
 * (`softmax`, the authors' code), or divided by their sum (`normalized`).
 */
export type GateMode = "weights" | "softmax" | "normalized";

/** Over what the load-balancing loss is taken: each user (Eq. 7-9), or all positions of the batch. */
export type BalanceScope = "sequence" | "batch";

/** The load-balancing loss's share of the total loss. */
export interface LoadBalancing {
  readonly scope: BalanceScope;
  /** lambda. */
  readonly coefficient: number;
}

/** What the router decided, for B users with N positions in all. */
export interface Routing {
  /** [N, K]: softmax over the experts, per position. */
  readonly p: Tensor;
  /** [B, K]: means of p over each user's positions (Eq. 4). */
  readonly w: Tensor;
  /** u32 [B, k]: the active experts, the largest w first, ties to the lower index. */
  readonly top: Tensor;
  /** u32 [B, K]: positions whose largest p is expert j's, ties to the lower index. */
  readonly argmaxCounts: Tensor;
}

const MODES: Record<GateMode, number> = { weights: 0, softmax: 1, normalized: 2 };

/**
 * Routing of B users: P = softmax(C W_r^T), w = mean of P over the real positions, the top k of w. c [N, d_c] packed as
 * `users` says, no user empty; weight W_r [K, d_c], K <= 64; 1 <= k <= K.
 */
export function router(step: Step, c: Tensor, users: Packed, weight: Tensor, k: number): Routing {
  const [experts, width] = weight.shape;
  const batch = users.lengths.length;
  if (experts > MOST_EXPERTS)
    throw new UserError(`the router has ${experts} experts; expected at most ${MOST_EXPERTS}`);
  if (!Number.isInteger(k) || k < 1 || k > experts)
    throw new UserError(
      `${k} active experts were asked for; expected 1 to the number of experts, ${experts}`,
    );
  if (users.lengths.some((length) => length < 1))
    throw new Error("the router needs at least one position for every user");
  const p = step.tensor([users.total, experts]);
  const w = step.tensor([batch, experts]);
  const top = step.tensor([batch, k], "u32");
  const argmaxCounts = step.tensor([batch, experts], "u32");
  step.run(kernels.router, {
    bindings: { c, weight, cu_seqlens: users.cuSeqlens, p, w, top, argmax_counts: argmaxCounts },
    params: { batch, width, experts, chosen: k },
    workgroups: [batch],
    cost: { flops: 2 * users.total * width * experts, bytes: 4 * (c.size + weight.size + 2 * p.size) },
  });
  return { p, w, top, argmaxCounts };
}

/** The gates g [B, k] of the active experts, in the order of `routing.top`. */
export function gates(step: Step, routing: Routing, mode: GateMode): Tensor {
  const [batch, experts] = routing.w.shape;
  const active = routing.top.shape[1];
  const g = step.tensor([batch, active]);
  step.run(kernels.router_gates, {
    bindings: { w: routing.w, top: routing.top, gates: g },
    params: { batch, experts, chosen: active },
    overrides: { MODE: MODES[mode] },
    workgroups: [Math.ceil(batch / 64)],
  });
  return g;
}

/**
 * The load-balancing loss (Eq. 7-9), without its coefficient: K sum_j f_j w_j, f_j the share of positions whose argmax
 * is expert j. `sequence`: per user, then the mean over the users; `batch`: over all positions at once. Returns [1].
 */
export function loadBalancing(step: Step, routing: Routing, users: Packed, scope: BalanceScope): Tensor {
  const [batch, experts] = routing.w.shape;
  const loss = step.tensor([1]);
  step.run(kernels.router_balance, {
    bindings: { w: routing.w, argmax_counts: routing.argmaxCounts, cu_seqlens: users.cuSeqlens, loss },
    params: { batch, experts },
    overrides: { BATCH_SCOPE: scope === "batch" },
    workgroups: [1],
  });
  return loss;
}

/**
 * The gradient with respect to W_r of sum(gates * dGates) + coefficient * load-balancing loss (either may be null;
 * f_j has no gradient). c, users and routing as in `router`; dGates [B, k]; dWeight [K, d_c] is overwritten, or added to
 * when `accumulate`.
 */
export function routerGradient(
  step: Step,
  c: Tensor,
  users: Packed,
  routing: Routing,
  dGates: Tensor | null,
  mode: GateMode,
  balance: LoadBalancing | null,
  into: { readonly dWeight: Tensor; readonly accumulate: boolean },
): void {
  const { p, w, top, argmaxCounts } = routing;
  const [batch, experts] = w.shape;
  const dLogits = step.tensor(p.shape);
  step.run(kernels.router_gradient, {
    bindings: {
      p,
      w,
      top,
      argmax_counts: argmaxCounts,
      cu_seqlens: users.cuSeqlens,
      d_gates: dGates ?? w,
      d_logits: dLogits,
    },
    params: { batch, experts, chosen: top.shape[1], coefficient: balance?.coefficient ?? 0 },
    overrides: {
      MODE: MODES[mode],
      GATES: Boolean(dGates),
      BALANCE: Boolean(balance),
      BATCH_SCOPE: balance?.scope === "batch",
    },
    workgroups: [batch],
    cost: { flops: 4 * p.size, bytes: 8 * p.size },
  });
  linearWeightGradient(step, dLogits, c, into.dWeight, into.accumulate);
  step.free(dLogits);
}
