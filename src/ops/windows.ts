import { GpuBindingError } from "../gpu/errors.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** Rows [from, to) of a larger tensor. */
export interface Window {
  readonly from: number;
  readonly to: number;
  readonly tensor: Tensor;
}

/**
 * Splits a tensor along its first axis into ranges that one binding can hold (`limit` bytes, Step.maxBindingBytes), in
 * the order of the rows; one that fits is returned whole. Ranges are multiples of `least` rows but for the last. Throws
 * when a single aligned range does not fit.
 */
export function windowsOf(tensor: Tensor, limit: number, least = 1): Window[] {
  const [rows] = tensor.shape;
  if (tensor.bytes <= limit) return [{ from: 0, to: rows, tensor }];
  const rowBytes = tensor.stride;
  // Windows start on multiples of 256 bytes, the binding alignment that every adapter accepts.
  let unit = least;
  while ((unit * rowBytes) % 256 !== 0) unit *= 2;
  const count = Math.floor(limit / (unit * rowBytes)) * unit;
  if (count === 0)
    throw new GpuBindingError(`${unit} rows of [${tensor.shape}] exceed the binding limit of ${limit} bytes`);
  const windows: Window[] = [];
  for (let from = 0; from < rows; from += count) {
    const to = Math.min(rows, from + count);
    windows.push({ from, to, tensor: tensor.rows(from, to) });
  }
  return windows;
}
