import { INTERRUPTED } from "./report-error.ts";

/** Stop requests: the signal aborts at the first Ctrl-C (or SIGTERM); the second ends the process at once. */
export interface Interrupt extends Disposable {
  readonly signal: AbortSignal;
}

/** Listens for SIGINT and SIGTERM until disposed. `what` completes "stopping after ...". */
export function listenForInterrupt(what: string): Interrupt {
  const controller = new AbortController();
  const onSignal = () => {
    // The exit releases the run's lock; whatever was being written stays as it was before (atomic files).
    if (controller.signal.aborted) process.exit(INTERRUPTED);
    console.error(`\nstopping after ${what}; once more stops at once`);
    controller.abort();
  };
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const signal of signals) process.on(signal, onSignal);
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      for (const signal of signals) process.off(signal, onSignal);
    },
  };
}
