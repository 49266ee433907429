import type { Step } from "../gpu/step.ts";
import type { RaggedIds } from "../ops/item-set.ts";

/** Uploads one list of item ids a query (for a step's lifetime): the seen items that rankings leave out. */
export function uploadLists(step: Step, lists: readonly ArrayLike<number>[]): RaggedIds {
  const offsets = new Uint32Array(lists.length + 1);
  lists.forEach((list, query) => {
    offsets[query + 1] = offsets[query] + list.length;
  });
  // At least one element: a binding must not be empty, and no offset reaches the spare one.
  const ids = new Uint32Array(Math.max(1, offsets[lists.length]));
  lists.forEach((list, query) => {
    ids.set(list, offsets[query]);
  });
  return { offsets: step.upload(offsets), ids: step.upload(ids) };
}
