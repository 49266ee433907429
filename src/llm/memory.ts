/**
 * How much memory a run will need, worked out before anything is loaded, and whether that can be had. WebGPU does not
 * say how much memory a GPU has; what can be checked is the size of single buffers and bindings, and for software
 * adapters, which compute in main memory, what the host has free.
 */
import { freemem } from "node:os";
import { UserError } from "../files/user-error.ts";
import type { AdapterTraits } from "../gpu/counting-device.ts";

/** One line of the account. */
export interface MemoryPart {
  readonly name: string;
  readonly bytes: number;
  /** What to make smaller when it is too much. */
  readonly advice: string;
}

export interface MemoryPlan {
  /** They add up to all the GPU memory that is held at once. */
  readonly parts: readonly MemoryPart[];
  /** Sizes of the buffers that steps share, among them: Buffers.reserve makes them at once. */
  readonly pool: readonly number[];
}

/** All parts together, in bytes. */
export function totalBytes({ parts }: MemoryPlan): number {
  return parts.reduce((sum, part) => sum + part.bytes, 0);
}

/** The account in one line, largest part first: "needs about 1.2 GiB of memory: backbone weights 1.0 GiB, ...". */
export function describeMemory(plan: MemoryPlan): string {
  const sorted = [...plan.parts].filter((part) => part.bytes > 0).sort((a, b) => b.bytes - a.bytes);
  return `needs about ${size(totalBytes(plan))} of memory: ${sorted.map(({ name, bytes }) => `${name} ${size(bytes)}`).join(", ")}`;
}

/**
 * Refuses what cannot fit in the memory that a software adapter shares with this process. Throws UserError naming the
 * largest part and what to do.
 *
 * @param available bytes of main memory that are free.
 */
export function checkMemory(plan: MemoryPlan, traits: AdapterTraits, available = availableMemory()): void {
  if (!traits.software || totalBytes(plan) <= available) return;
  const largest = plan.parts.reduce((a, b) => (b.bytes > a.bytes ? b : a));
  throw new UserError(
    `this run ${describeMemory(plan)}; the adapter (${traits.name}) computes in main memory, of which ${size(available)} is free; use ${largest.advice} or a GPU`,
  );
}

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
