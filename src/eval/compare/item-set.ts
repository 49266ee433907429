import type { Step } from "../../gpu/step.ts";
import {
  crossEntropy,
  crossEntropyGradient,
  normalizeRows,
  normalizeRowsGradient,
  rankTargets,
  topItems,
} from "../../ops/item-set.ts";
import { linear } from "../../ops/linear.ts";
import { expectedRank, mean, ndcg, recall, reciprocalRank } from "../metrics.ts";
import { KERNEL_F32 } from "../tolerances.ts";
import type { Dump } from "./dump.ts";
import { inStep, type Kind, kernelKind } from "./kind.ts";
import { Outputs } from "./outputs.ts";

/** h [B, d] and E [I, d], their rows normalised, and the targets. */
function unitVectors(step: Step, dump: Dump) {
  const h = dump.floats("h", ["B", "d"]);
  const e = dump.floats("E", ["I", "d"]);
  const [users, items, width] = ["B", "I", "d"].map((dimension) => dump.size(dimension));
  const user = normalizeRows(step, step.upload(h, [users, width]));
  const item = normalizeRows(step, step.upload(e, [items, width])).y;
  const target = step.upload(Uint32Array.from(dump.ids("target", ["B"], items)));
  return { user, item, target, users, items };
}

/** iic: cross-entropy of cos / tau against all items; the gradient is that of the mean. */
export const iicCase = kernelKind((step, dump, outputs) => {
  const tau = dump.number("tau");
  if (tau <= 0) throw dump.badParam("tau", "a positive number");
  const { user, item, target, users } = unitVectors(step, dump);
  const { losses, lse } = crossEntropy(step, user.y, item, target, 1 / tau, null);
  outputs.read(step, "losses", losses, ["B"]);
  outputs.read(step, "lse", lse, ["B"]);
  outputs.readAs(step, "loss", losses, [], (values) => [mean(values, (loss) => loss)]);
  const dLosses = step.upload(new Float32Array(users).fill(1 / users));
  const dUnit = crossEntropyGradient(step, user.y, item, target, lse, dLosses, 1 / tau, null, null);
  outputs.read(step, "dh", normalizeRowsGradient(step, dUnit, user.y, user.norm), ["B", "d"]);
});

/** The rows of `seen` without their padding, as the ragged lists that the ops take. */
function raggedSeen(step: Step, padded: Int32Array, users: number) {
  const width = padded.length / users;
  const lists = Array.from({ length: users }, (_, u) =>
    padded.subarray(u * width, (u + 1) * width).filter((id) => id >= 0),
  );
  const offsets = new Uint32Array(users + 1);
  lists.forEach((list, u) => {
    offsets[u + 1] = offsets[u] + list.length;
  });
  return {
    offsets: step.upload(offsets),
    ids: step.upload(Uint32Array.from(lists.flatMap((list) => [...list]))),
  };
}

/** rank: cosine scores, exact ranks with and without the seen items, the top of the list, the metrics. */
export const rankCase: Kind = {
  tolerance: () => KERNEL_F32,
  run: async ({ gpu }, dump) => {
    const outputs = new Outputs(dump);
    const reads = await inStep(gpu, dump, (step) => {
      const { user, item, target, users, items } = unitVectors(step, dump);
      const top = dump.count("top");
      if (top > items) throw dump.badParam("top", `at most the ${items} items`);
      outputs.read(step, "scores", linear(step, user.y, item), ["B", "I"]);
      const list = topItems(step, user.y, item, top, { bias: null, seen: null, allowed: null });
      outputs.read(step, "top", list.ids, ["B", top], true);
      outputs.read(step, "top_scores", list.scores, ["B", top]);
      const padded = dump.ids("seen", ["B", "n"], items, -1);
      const seen = raggedSeen(step, padded, users);
      return [null, seen].map((excluded) => {
        const counts = rankTargets(step, user.y, item, target, { bias: null, seen: excluded });
        return [step.read(counts.above), step.read(counts.equal)];
      });
    });
    const [ranks, unseen] = await Promise.all(
      reads.map(async (pair) => {
        const [above, equal] = await Promise.all(pair);
        return Array.from(above, (count, u) => expectedRank(count, equal[u]));
      }),
    );
    await outputs.settle();
    outputs.set("rank", ranks, ["B"], true);
    outputs.set("rank_exclude_seen", unseen, ["B"], true);
    outputs.set("recall10", [mean(ranks, (rank) => recall(rank, 10))], []);
    outputs.set("ndcg10", [mean(ranks, (rank) => ndcg(rank, 10))], []);
    outputs.set("mrr", [mean(ranks, reciprocalRank)], []);
    return outputs;
  },
};
