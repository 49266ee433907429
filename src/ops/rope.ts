import { gridOf } from "../gpu/grid.ts";
import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** Which elements of a head form pairs: (i, i + R/2), as Hugging Face's Llama, or (2i, 2i + 1), as GPT-J and ChatGLM2. */
export type RopeLayout = "half" | "interleaved";

export interface RopeOptions {
  readonly heads: number;
  readonly headSize: number;
  /** Elements of a row of the tensor. */
  readonly stride: number;
  /** Element of each row at which the first head starts. */
  readonly offset: number;
  readonly layout: RopeLayout;
  /** R: the first elements of each head that are rotated; even, at most headSize. */
  readonly rotaryDim: number;
  /** Base of the frequencies theta^(-2i / R), 10000 in the paper. */
  readonly theta: number;
  /** Rotate back: the gradient of the rotation. */
  readonly inverse: boolean;
}

/**
 * The frequencies theta^(-2i / R) in turns a position, as fixed-point numbers: u32 [R/2, 2], units of 2^-32 turn, and
 * the rest in 2^-48 turn. See kernels/rope.wgsl.
 */
function turnsOf(rotaryDim: number, theta: number): Uint32Array<ArrayBuffer> {
  const turns = new Uint32Array(rotaryDim);
  for (let i = 0; i < rotaryDim / 2; i++) {
    const units = (theta ** ((-2 * i) / rotaryDim) / (2 * Math.PI)) * 2 ** 32;
    turns[2 * i] = Math.floor(units);
    turns[2 * i + 1] = Math.floor((units - Math.floor(units)) * 2 ** 16);
  }
  return turns;
}

/** Every layer of a model uses the same frequencies: they are uploaded once a step. */
const uploaded = new WeakMap<Step, Map<string, Tensor>>();

function turnsTensor(step: Step, rotaryDim: number, theta: number): Tensor {
  let tensors = uploaded.get(step);
  if (!tensors) {
    tensors = new Map();
    uploaded.set(step, tensors);
  }
  const key = `${rotaryDim} ${theta}`;
  let tensor = tensors.get(key);
  if (!tensor) {
    tensor = step.upload(turnsOf(rotaryDim, theta));
    tensors.set(key, tensor);
  }
  return tensor;
}

/**
 * Rotary position embedding (Su et al. 2021) of `heads` heads in place: x is a tensor of rows of `stride` elements,
 * positions u32 [T]. Pair i of every head turns by the angle position * theta^(-2i / R). Angles are exact to f32
 * rounding up to position 2^32.
 */
export function rope(step: Step, x: Tensor, positions: Tensor, options: RopeOptions): void {
  const { heads, headSize, stride, offset, layout, rotaryDim, theta, inverse } = options;
  if (rotaryDim % 2 !== 0 || rotaryDim > headSize || offset + heads * headSize > stride) {
    throw new Error(
      `rope of ${heads} heads of ${headSize} from ${offset} on in rows of ${stride}, rotating ${rotaryDim}`,
    );
  }
  const rows = positions.size;
  const pairs = rotaryDim / 2;
  step.run(kernels.rope, {
    bindings: { positions, turns: turnsTensor(step, rotaryDim, theta), x },
    params: { rows, pairs, heads, head_size: headSize, stride, offset },
    overrides: { INTERLEAVED: layout === "interleaved", INVERSE: inverse },
    workgroups: gridOf(Math.ceil((rows * pairs) / 64)),
    cost: { flops: 6 * rows * pairs * heads, bytes: 16 * rows * pairs * heads },
  });
}
