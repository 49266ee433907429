import { type Dataset, makeDataset } from "../src/data/dataset.ts";
import { Random } from "../src/data/random.ts";

/** Every item but the last is followed by one fixed other; nobody ever meets the last. */
export function chains(users: number, items: number): Dataset {
  const random = new Random(1, "chains");
  const next = random.permutation(items - 1);
  const sequences = Array.from({ length: users }, () => {
    let item = random.below(items - 1);
    return Uint32Array.from({ length: 8 }, () => {
      item = next[item];
      return item;
    });
  });
  return makeDataset({
    name: "chains",
    users: sequences.map((_, u) => `u${u}`),
    items: Array.from({ length: items }, (_, i) => ({ id: `i${i}`, title: `Item ${i}` })),
    sequences,
    provenance: { format: "test", core: 0, duplicates: "keep", dropped: [], files: [], unusedItems: 0 },
  });
}
