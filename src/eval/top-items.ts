import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { topItems } from "../ops/item-set.ts";
import { NO_ITEM } from "../ops/item-set-top.ts";
import { uploadLists } from "./ragged.ts";

/** A recommended item (its index) and its score: the cosine of Eq. 2 for embeddings of unit length. */
export interface Recommendation {
  readonly item: number;
  readonly score: number;
}

export interface RetrievalOptions {
  /** Items that no list may hold, one list of indexes a user: the history, under --exclude-seen. */
  readonly seen?: readonly ArrayLike<number>[] | null;
  /** 1 for each item that may be recommended [I] (see `itemsWhere`); null for all. */
  readonly allowed?: Uint8Array | null;
}

/** Users to a GPU step. */
const BATCH = 256;

/**
 * The k best items of each user, best first, ties to the lower index: fewer where fewer are left to choose from.
 * h [n, d] are user embeddings on the host, items [I, d] the item embeddings on the GPU. Throws when a score is not
 * finite; a UserError for k out of range or when the options leave a user nothing.
 */
export async function retrieve(
  gpu: Gpu,
  h: Float32Array<ArrayBuffer>,
  items: Tensor,
  k: number,
  options: RetrievalOptions = {},
): Promise<Recommendation[][]> {
  const [count, width] = items.shape;
  const { seen = null, allowed = null } = options;
  if (allowed && allowed.length !== count) throw new Error(`${allowed.length} flags for ${count} items`);
  const bits = allowed && packBits(allowed);
  const users = h.length / width;
  const lists: Recommendation[][] = [];
  for (let from = 0; from < users; from += BATCH) {
    const to = Math.min(users, from + BATCH);
    const step = gpu.step("top items");
    const top = topItems(step, uploadRows(step, h, width, from, to), items, k, {
      seen: seen && uploadLists(step, seen.slice(from, to)),
      allowed: bits && step.upload(bits),
    });
    const [ids, nonFinite] = [step.read(top.ids), step.read(top.nonFinite)];
    const scores = step.readFloats(top.scores);
    await step.submit();
    lists.push(...listsOf(await ids, await scores, await nonFinite, k, from));
  }
  return lists;
}

function uploadRows(
  step: Step,
  h: Float32Array<ArrayBuffer>,
  width: number,
  from: number,
  to: number,
): Tensor {
  return step.upload(h.slice(from * width, to * width), [to - from, width]);
}

function listsOf(
  ids: ArrayLike<number>,
  scores: ArrayLike<number>,
  nonFinite: ArrayLike<number>,
  k: number,
  firstUser: number,
): Recommendation[][] {
  return Array.from({ length: nonFinite.length }, (_, row) => {
    if (nonFinite[row]) {
      throw new Error(
        `${nonFinite[row]} of the scores of user row ${firstUser + row} are not finite; the training has diverged`,
      );
    }
    const list: Recommendation[] = [];
    for (let place = row * k; place < (row + 1) * k && ids[place] !== NO_ITEM; place++) {
      list.push({ item: ids[place], score: scores[place] });
    }
    if (list.length === 0) {
      throw new UserError(
        "nothing is left to recommend: the history and the conditions rule out every item; drop --exclude-seen or a --where",
      );
    }
    return list;
  });
}

/** Flags as bits: item i is bit i % 32 of word floor(i / 32). */
function packBits(flags: Uint8Array): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(flags.length / 32));
  flags.forEach((flag, i) => {
    if (flag) words[i >>> 5] |= 1 << (i & 31);
  });
  return words;
}
