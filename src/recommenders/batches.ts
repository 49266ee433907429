/** How many sequences a batch takes: both limits hold, but a batch has at least one sequence. */
export interface BatchLimits {
  /** Sequences. */
  readonly batchSize: number;
  /** Items of all its sequences. */
  readonly batchItems: number;
}

/** Cuts an order of sequences into batches, each as full as the limits allow. `lengths` counts the items of each. */
export function* batchesOf(
  order: Uint32Array,
  lengths: ArrayLike<number>,
  { batchSize, batchItems }: BatchLimits,
): Generator<Uint32Array> {
  let from = 0;
  let items = 0;
  for (let n = 0; n < order.length; n++) {
    const length = lengths[order[n]];
    if (n > from && (n - from === batchSize || items + length > batchItems)) {
      yield order.subarray(from, n);
      from = n;
      items = 0;
    }
    items += length;
  }
  if (order.length > from) yield order.subarray(from);
}
