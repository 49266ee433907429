/**
 * Learning rate of update `update` (from 0) of `total` updates of a phase: linear warm-up, then constant, or cosine
 * down to zero.
 */
export function learningRate(
  settings: {
    readonly learningRate: number;
    readonly schedule: "constant" | "cosine";
    readonly warmupSteps: number;
  },
  update: number,
  total: number,
): number {
  const { learningRate: peak, schedule, warmupSteps } = settings;
  if (update < warmupSteps) return (peak * (update + 1)) / warmupSteps;
  if (schedule === "constant") return peak;
  const progress = Math.min(1, (update - warmupSteps) / Math.max(1, total - warmupSteps));
  return peak * 0.5 * (1 + Math.cos(Math.PI * progress));
}
