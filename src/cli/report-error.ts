import { UserError } from "../files/user-error.ts";
import { GpuLostError, GpuOutOfMemoryError } from "../gpu/errors.ts";
import { Interrupted } from "../train/trainer.ts";

/** What the shell sees after Ctrl-C: 128 + SIGINT. */
export const INTERRUPTED = 130;

/** Prints any error of a command as one line on stderr and returns the exit code. Stacks appear with LASER_DEBUG=1. */
export function reportError(error: unknown): number {
  if (error instanceof Interrupted) {
    console.error(oneLine(error.message));
    return INTERRUPTED;
  }
  console.error(describe(error));
  if (process.env.LASER_DEBUG === "1" && error instanceof Error) console.error(error.stack);
  return 1;
}

function describe(error: unknown): string {
  const message = oneLine(error instanceof Error ? error.message : String(error));
  if (error instanceof UserError) return `error: ${message}`;
  if (error instanceof GpuOutOfMemoryError) {
    return `error: ${message}; use a smaller --batch-size or --token-budget, or fewer bits (--weights f16, int8 or int4)`;
  }
  if (error instanceof GpuLostError)
    return `error: ${message}; what was checkpointed is safe: go on with --resume`;
  return `internal error: ${message} (set LASER_DEBUG=1 for the stack)`;
}

function oneLine(text: string): string {
  return text.trim().replace(/\s*\n\s*/g, " ");
}
