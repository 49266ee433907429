// @ts-check
/**
 * The engine's end of the protocol: run.js forks one process an engine and calls its methods by name, one at a time.
 *
 *   open({ adapter })           -> { adapter, version, settings, environment }
 *   forms(case)                 -> the ways the engine can do this work, [] for none
 *   prepare(case, form)         -> { outputs }: host arrays by name, to be checked; the work is then ready to be timed
 *   round(repetitions)          -> milliseconds of one repetition: the host's recording, the work, the wait for its end;
 *                                  made here into { ms, processor }, the process's processor time over all threads beside it
 *   release()                   ends what `prepare` made
 *   close()                     ends the engine; its process exits by itself
 *
 * @typedef {{ engine: string, adapter: string, version: string, settings: string, software?: boolean, environment: Record<string, string> }} About
 * @typedef {{
 *   open: (options: { adapter?: string }) => Promise<About>,
 *   forms: (each: import("./cases.js").Case) => Promise<string[]> | string[],
 *   prepare: (each: import("./cases.js").Case, form: string) => Promise<{ outputs: Record<string, ArrayLike<number>> }>,
 *   round: (repetitions: number) => Promise<number>,
 *   release: () => Promise<void>,
 *   close: () => Promise<void>,
 * }} Engine
 */

/** @type {(engine: Engine) => void} */
export function serve(engine) {
  process.on(
    "message",
    async (/** @type {{ id: number, method: keyof Engine, args: never[] }} */ message) => {
      const { id, method, args } = message;
      const call = /** @type {(...args: never[]) => unknown} */ (engine[method]);
      try {
        const before = process.cpuUsage();
        let result = await call(...args);
        if (method === "round") {
          const { user, system } = process.cpuUsage(before);
          result = { ms: result, processor: (user + system) / 1000 / Number(args[0]) };
        }
        process.send?.({ id, result });
      } catch (error) {
        process.send?.({ id, error: error instanceof Error ? error.message : String(error) });
      }
      if (method === "close") process.disconnect?.();
    },
  );
  process.on("disconnect", () => setImmediate(() => process.exit(0)));
}
