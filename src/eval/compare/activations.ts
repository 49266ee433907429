import { gelu, geluGradient, swiglu, swigluGradient } from "../../ops/activation.ts";
import { kernelKind } from "./kind.ts";

export const geluCase = kernelKind((step, dump, outputs) => {
  const approximate = dump.choice("approximate", ["tanh", "none"]);
  const x = step.upload(dump.floats("x", ["n"]));
  outputs.read(step, "y", gelu(step, x, approximate), ["n"]);
  const dy = dump.floatsFor(["dx"], "dy", ["n"]);
  if (dy) outputs.read(step, "dx", geluGradient(step, step.upload(dy), x, approximate), ["n"]);
});

/** The op takes gate and up side by side in one tensor, as the fused projection makes them. */
export const swigluCase = kernelKind((step, dump, outputs) => {
  const gate = dump.floats("gate", ["R", "D"]);
  const up = dump.floats("up", ["R", "D"]);
  const [rows, width] = [dump.size("R"), dump.size("D")];
  const both = new Float32Array(2 * gate.length);
  for (let r = 0; r < rows; r++) {
    both.set(gate.subarray(r * width, (r + 1) * width), 2 * r * width);
    both.set(up.subarray(r * width, (r + 1) * width), (2 * r + 1) * width);
  }
  const gateUp = step.upload(both, [rows, 2 * width]);
  outputs.read(step, "y", swiglu(step, gateUp), ["R", "D"]);
  const dy = dump.floatsFor(["dgate", "dup"], "dy", ["R", "D"]);
  if (!dy) return;
  const gradient = swigluGradient(step, step.upload(dy, [rows, width]), gateUp);
  const half = (start: number) => (values: ArrayLike<number>) =>
    Float32Array.from(
      { length: rows * width },
      (_, i) => values[Math.floor(i / width) * 2 * width + start + (i % width)],
    );
  outputs.readAs(step, "dgate", gradient, ["R", "D"], half(0));
  outputs.readAs(step, "dup", gradient, ["R", "D"], half(width));
});
