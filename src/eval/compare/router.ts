import { aggregate, aggregateGradient } from "../../ops/aggregate.ts";
import { linear, linearInputGradient, linearWeightGradient } from "../../ops/linear.ts";
import { packed } from "../../ops/packed.ts";
import { columnSum } from "../../ops/reduce.ts";
import { gates, loadBalancing, router, routerGradient } from "../../ops/router.ts";
import { kernelKind } from "./kind.ts";

const MODES = ["weights", "softmax", "normalized"] as const;
const SCOPES = ["sequence", "batch"] as const;

/** router: probabilities, weights, top experts, gates in every mode, both load-balancing losses, all gradients. */
export const routerCase = kernelKind((step, dump, outputs) => {
  const values = dump.floats("C", ["sum N", "d_c"]);
  const [total, width] = [dump.size("sum N"), dump.size("d_c")];
  const users = packed(step, dump.lengths("lengths", ["B"], total));
  const weight = step.upload(dump.floats("W_r", ["K", "d_c"]), [dump.size("K"), width]);
  const active = dump.count("k");
  if (active > dump.size("K")) throw dump.badParam("k", `at most the ${dump.size("K")} experts`);
  const c = step.upload(values, [total, width]);
  const routing = router(step, c, users, weight, active);
  outputs.read(step, "P", routing.p, ["sum N", "K"]);
  outputs.read(step, "w", routing.w, ["B", "K"]);
  outputs.read(step, "top", routing.top, ["B", active], true);
  outputs.read(step, "argmax_counts", routing.argmaxCounts, ["B", "K"], true);
  const into = () => ({ dWeight: step.tensor(weight.shape), accumulate: false });
  for (const mode of MODES) {
    outputs.read(step, `gates_${mode}`, gates(step, routing, mode), ["B", active]);
    const gradient = dump.floatsFor([`dW_r_${mode}`], `dgates_${mode}`, ["B", active]);
    if (!gradient) continue;
    const dGates = step.upload(gradient, [dump.size("B"), active]);
    const target = into();
    routerGradient(step, c, users, routing, dGates, mode, null, target);
    outputs.read(step, `dW_r_${mode}`, target.dWeight, ["K", "d_c"]);
  }
  for (const scope of SCOPES) {
    outputs.read(step, `lb_${scope}`, loadBalancing(step, routing, users, scope), []);
    const target = into();
    routerGradient(step, c, users, routing, null, "weights", { scope, coefficient: 1 }, target);
    outputs.read(step, `dW_r_lb_${scope}`, target.dWeight, ["K", "d_c"]);
  }
});

/** aggregate: prefix = (sum over active j of g_j Q_j) W_out^T + b_out, and every gradient. */
export const aggregateCase = kernelKind((step, dump, outputs) => {
  const values = dump.floats("Q", ["B", "k", "L", "d_m"]);
  const [batch, active, rows, width] = ["B", "k", "L", "d_m"].map((name) => dump.size(name));
  const q = step.upload(values, [batch * active * rows, width]);
  const gate = step.upload(dump.floats("g", ["B", "k"]), [batch, active]);
  const w = step.upload(dump.floats("W_out", ["d", "d_m"]), [dump.size("d"), width]);
  const b = step.upload(dump.floats("b_out", ["d"]));
  const shape = { batch, active, rows, width };
  const mixed = aggregate(step, q, gate, shape);
  outputs.read(step, "prefix", linear(step, mixed, w, b), ["B", "L", "d"]);
  const gradient = dump.floatsFor(["dQ", "dg", "dW_out", "db_out"], "dprefix", ["B", "L", "d"]);
  if (!gradient) return;
  const dPrefix = step.upload(gradient, [batch * rows, dump.size("d")]);
  const { dq, dGates } = aggregateGradient(step, linearInputGradient(step, dPrefix, w), q, gate, shape);
  outputs.read(step, "dQ", dq, ["B", "k", "L", "d_m"]);
  outputs.read(step, "dg", dGates, ["B", "k"]);
  const dw = step.tensor(w.shape);
  linearWeightGradient(step, dPrefix, mixed, dw, false);
  outputs.read(step, "dW_out", dw, ["d", "d_m"]);
  const db = step.tensor(b.shape);
  columnSum(step, dPrefix, db, false);
  outputs.read(step, "db_out", db, ["d"]);
});
