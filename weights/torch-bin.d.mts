import type { StoredType } from "../src/files/stored-tensor.ts";

type Pieces = Iterable<ArrayBufferView> | AsyncIterable<ArrayBufferView>;
type Data = ArrayBufferView | Pieces;

/** See torch-bin.mjs. */
export function writeTorchBin(
  path: string,
  tensors: readonly {
    name: string;
    dtype: StoredType;
    shape: readonly number[];
    data: ArrayBufferView | (() => Data | Promise<Data>);
  }[],
): Promise<void>;
