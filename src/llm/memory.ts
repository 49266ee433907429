/**
 * How much memory a run will need, worked out before anything is loaded. WebGPU does not say how much memory a GPU
 * has; what can be checked is the size of single buffers and bindings, and for software adapters, which compute in
 * main memory, what the host has free.
 */
import { freemem } from "node:os";
import { UserError } from "../files/user-error.ts";
import { type DecoderConfig, projectionWidth, upWidth } from "./decoder-config.ts";

/** One line of the account. */
export interface MemoryPart {
  readonly name: string;
  readonly bytes: number;
}

/** A tensor that must fit one buffer, and one binding when a kernel reads it whole. */
export interface LargeTensor {
  readonly name: string;
  readonly bytes: number;
  /** What to do when it does not fit. */
  readonly advice: string;
  /** True for tensors that are bound in windows: only the buffer's size limits them. */
  readonly windowed: boolean;
}

export interface MemoryPlan {
  readonly parts: readonly MemoryPart[];
  readonly tensors: readonly LargeTensor[];
}

/**
 * Bytes of the frozen backbone's activations for T packed tokens, all f32.
 *
 * Training keeps the input of every layer, T N d, and recomputes one layer at a time on the way back, holding then its
 * projections (q, k, v: c = (H + 2G) h), attention output (H h), middle, output and their gradients (3 d), and the
 * inputs and gradients of the MLP's activation (2 u + F, u = 2F with a gate): 4 T (N d + 2 c + 2 H h + 4 d + 2 u + F)
 * bytes. Encoding keeps one layer only: 4 T (c + H h + 3 d + u + F).
 */
export function activationBytes(config: DecoderConfig, tokens: number, training: boolean): number {
  const { hiddenSize: d, layers, heads, headSize, intermediateSize } = config;
  const projections = projectionWidth(config);
  const attended = heads * headSize;
  const up = upWidth(config);
  const each = training
    ? layers * d + 2 * projections + 2 * attended + 4 * d + 2 * up + intermediateSize
    : projections + attended + 3 * d + up + intermediateSize;
  return 4 * tokens * each;
}

/** The widest activation of a layer for T tokens, in bytes: the MLP's, or q, k and v. */
export function widestActivationBytes(config: DecoderConfig, tokens: number): number {
  return 4 * tokens * Math.max(upWidth(config), projectionWidth(config));
}

/** The pool's buffers come in four sizes per power of two: up to a fifth more than asked for. */
const POOL_WASTE = 1.2;

/** Activations as the pool of buffers will hold them. */
export function pooled(bytes: number): number {
  return Math.ceil(bytes * POOL_WASTE);
}

/** What the checks need to know of an adapter. */
export interface MemoryLimits {
  readonly adapterName: string;
  /** The adapter computes in main memory. */
  readonly software: boolean;
  readonly maxBufferBytes: number;
  readonly maxBindingBytes: number;
}

/** The account in one line, largest part first: "needs 1.2 GiB: backbone weights 1.0 GiB, ...". */
export function describeMemory({ parts }: MemoryPlan): string {
  const total = parts.reduce((sum, part) => sum + part.bytes, 0);
  const sorted = [...parts].filter((part) => part.bytes > 0).sort((a, b) => b.bytes - a.bytes);
  return `needs about ${size(total)} of memory: ${sorted.map(({ name, bytes }) => `${name} ${size(bytes)}`).join(", ")}`;
}

/**
 * Refuses what cannot fit. Throws UserError naming the part and what to do.
 *
 * @param available bytes of main memory that are free (software adapters).
 */
export function checkMemory(plan: MemoryPlan, limits: MemoryLimits, available = availableMemory()): void {
  const { adapterName, software, maxBufferBytes, maxBindingBytes } = limits;
  for (const { name, bytes, advice, windowed } of plan.tensors) {
    const most = windowed ? maxBufferBytes : Math.min(maxBufferBytes, maxBindingBytes);
    if (bytes <= most) continue;
    const what = most === maxBufferBytes ? "one buffer" : "one binding";
    throw new UserError(
      `${name} needs ${size(bytes)}, and ${what} of this adapter (${adapterName}) holds ${size(most)}; ${advice}`,
    );
  }
  const total = plan.parts.reduce((sum, part) => sum + part.bytes, 0);
  if (software && total > available) {
    const largest = plan.parts.reduce((a, b) => (b.bytes > a.bytes ? b : a));
    throw new UserError(
      `this run ${describeMemory(plan)}; the adapter (${adapterName}) computes in main memory, of which ${size(available)} is free; use ${ADVICE[largest.name] ?? "a smaller backbone"} or a GPU`,
    );
  }
}

const ADVICE: Readonly<Record<string, string>> = {
  "backbone weights": "a smaller backbone",
  activations: "a smaller --batch-size or --token-budget",
  "trainable parameters and optimiser": "a smaller --mformer-width",
};

/** Bytes of main memory that this process may still take (within its container's limit, where Node knows it). */
export function availableMemory(): number {
  return process.availableMemory?.() ?? freemem();
}

/** Bytes for people: KiB, MiB or GiB. */
export function size(bytes: number): string {
  if (bytes >= 2 ** 30) return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
  if (bytes >= 2 ** 20) return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  return `${(bytes / 2 ** 10).toFixed(1)} KiB`;
}
