import { layerNorm, layerNormGradient, rmsNorm, rmsNormGradient } from "../../ops/norm.ts";
import { kernelKind } from "./kind.ts";

/** layer_norm: forward and every gradient. */
export const layerNormCase = kernelKind((step, dump, outputs) => {
  const eps = dump.number("eps");
  const x = step.upload(dump.floats("x", ["R", "D"]), [dump.size("R"), dump.size("D")]);
  const w = step.upload(dump.floats("w", ["D"]));
  const b = step.upload(dump.floats("b", ["D"]));
  const { y, ...statistics } = layerNorm(step, x, w, b, eps);
  outputs.read(step, "y", y, ["R", "D"]);
  const dy = dump.floatsFor(["dx", "dw", "db"], "dy", ["R", "D"]);
  if (!dy) return;
  const dw = step.tensor(w.shape);
  const db = step.tensor(b.shape);
  const dx = layerNormGradient(step, step.upload(dy, x.shape), x, w, statistics, {
    dw,
    db,
    accumulate: false,
  });
  outputs.read(step, "dx", dx, ["R", "D"]);
  outputs.read(step, "dw", dw, ["D"]);
  outputs.read(step, "db", db, ["D"]);
});

/** rms_norm: forward and every gradient. */
export const rmsNormCase = kernelKind((step, dump, outputs) => {
  const eps = dump.number("eps");
  const x = step.upload(dump.floats("x", ["R", "D"]), [dump.size("R"), dump.size("D")]);
  const w = step.upload(dump.floats("w", ["D"]));
  const { y, rstd } = rmsNorm(step, x, w, eps);
  outputs.read(step, "y", y, ["R", "D"]);
  const dy = dump.floatsFor(["dx", "dw"], "dy", ["R", "D"]);
  if (!dy) return;
  const dw = step.tensor(w.shape);
  const dx = rmsNormGradient(step, step.upload(dy, x.shape), x, w, rstd, { dw, accumulate: false });
  outputs.read(step, "dx", dx, ["R", "D"]);
  outputs.read(step, "dw", dw, ["D"]);
});
