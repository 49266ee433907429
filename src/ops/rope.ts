import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** Which elements of a head form pairs: (i, i + R/2), as Hugging Face's Llama, or (2i, 2i + 1), as GPT-J and ChatGLM2. */
export type RopeLayout = "half" | "interleaved";

/** What turns by how much. */
export interface Rotation {
  readonly layout: RopeLayout;
  /**
   * The angle in radians, at most 1, by which each of the R/2 pairs turns a position: the first R elements of a head
   * are rotated. One array object for all layers: its angles are made once a step.
   */
  readonly frequencies: readonly number[];
}

export interface RopeOptions extends Rotation {
  readonly heads: number;
  readonly headSize: number;
  /** Elements of a row of the tensor. */
  readonly stride: number;
  /** Element of each row at which the first head starts. */
  readonly offset: number;
  /** Rotate back: the gradient of the rotation. */
  readonly inverse: boolean;
}

/** theta^(-2i / R) for the R/2 pairs of `rotaryDim` = R elements; theta is 10000 in the paper. */
export function rotaryFrequencies(rotaryDim: number, theta: number): number[] {
  return Array.from({ length: rotaryDim / 2 }, (_, i) => theta ** ((-2 * i) / rotaryDim));
}

/**
 * Frequencies in turns a position, as fixed-point numbers: u32 [R/2, 2], units of 2^-32 turn, and the rest in 2^-48
 * turn. See kernels/rope_angles.wgsl.
 */
function turnsOf(frequencies: readonly number[]): Uint32Array<ArrayBuffer> {
  const turns = new Uint32Array(2 * frequencies.length);
  frequencies.forEach((frequency, i) => {
    const units = (frequency / (2 * Math.PI)) * 2 ** 32;
    turns[2 * i] = Math.floor(units);
    turns[2 * i + 1] = Math.floor((units - Math.floor(units)) * 2 ** 16);
  });
  return turns;
}

/** The angles that a step has made, by positions and frequencies. */
const made = new WeakMap<Step, Map<Tensor, Map<readonly number[], Tensor>>>();

/**
 * (cos, sin) of positions[t] * frequencies[i]: f32 [T, R/2, 2], of positions u32 [T]. Exact to f32 rounding up to
 * position 2^32. Made once for the same positions and frequencies in a step; do not free it.
 */
export function ropeAngles(step: Step, positions: Tensor, frequencies: readonly number[]): Tensor {
  const byPositions = made.get(step) ?? new Map<Tensor, Map<readonly number[], Tensor>>();
  made.set(step, byPositions);
  const byFrequencies = byPositions.get(positions) ?? new Map<readonly number[], Tensor>();
  byPositions.set(positions, byFrequencies);
  const found = byFrequencies.get(frequencies);
  if (found) return found;
  const [rows, pairs] = [positions.size, frequencies.length];
  const angles = step.tensor([rows, pairs, 2]);
  step.run(kernels.rope_angles, {
    bindings: { positions, turns: step.upload(turnsOf(frequencies)), angles },
    params: { rows, pairs },
    workgroups: gridOf(Math.ceil((rows * pairs) / 64)),
    cost: { flops: 20 * rows * pairs, bytes: 8 * rows * pairs },
  });
  byFrequencies.set(frequencies, angles);
  return angles;
}

/**
 * Rotary position embedding (Su et al. 2021) of `heads` heads in place: x is a tensor of rows of `stride` elements,
 * positions u32 [T]. Pair i of every head turns by the angle position * frequencies[i].
 */
export function rope(step: Step, x: Tensor, positions: Tensor, options: RopeOptions): void {
  const { heads, headSize, stride, offset, layout, frequencies, inverse } = options;
  const pairs = frequencies.length;
  if (2 * pairs > headSize || offset + heads * headSize > stride) {
    throw new Error(
      `rope of ${heads} heads of ${headSize} from ${offset} on in rows of ${stride}, rotating ${2 * pairs}`,
    );
  }
  const rows = positions.size;
  const interleaved = layout === "interleaved";
  // Pairs that a lane takes at a time: those of two groups of four elements, or of one when a pair lies side by side.
  const together = interleaved ? 2 : 4;
  const grouped = pairs % together === 0 && [headSize, stride, offset].every((extent) => extent % 4 === 0);
  const [kernel, unit, perLane] = grouped ? [kernels.rope_grouped, 4, together] : [kernels.rope, 1, 1];
  step.run(kernel, {
    bindings: { angles: ropeAngles(step, positions, frequencies), x },
    params: { rows, pairs, heads, head_size: headSize / unit, stride: stride / unit, offset: offset / unit },
    overrides: { INTERLEAVED: interleaved, INVERSE: inverse },
    workgroups: gridOf(Math.ceil((rows * pairs) / (64 * perLane))),
    cost: { flops: 6 * rows * pairs * heads, bytes: 16 * rows * pairs * heads },
  });
}
