import { architectureOfClass } from "./architectures/table.ts";
import { type DecoderConfig, upWidth } from "./decoder-config.ts";

/** A linear layer. */
export interface LinearWeights<T> {
  /** [out, in], or [in, out] (DecoderConfig.linear). */
  readonly weight: T;
  /** [out]. */
  readonly bias: T | null;
}

/** An RMS norm, or with a bias a layer norm. */
export interface NormWeights<T> {
  /** [d]. */
  readonly weight: T;
  readonly bias: T | null;
}

export interface LayerWeights<T> {
  readonly inputNorm: NormWeights<T>;
  /** d to (H + 2G) h: query | key | value. */
  readonly qkv: LinearWeights<T>;
  /** [2 h]: the weights of the norm of query heads, then of key heads. */
  readonly queryKeyNorm: T | null;
  /** H h to d. */
  readonly output: LinearWeights<T>;
  readonly mlpNorm: NormWeights<T>;
  /** d to 2F: gate | up; or d to F. */
  readonly up: LinearWeights<T>;
  /** F to d. */
  readonly down: LinearWeights<T>;
}

/** Everything that a decoder multiplies with: tensors, or (T = WeightSource) where they come from. */
export interface DecoderWeights<T> {
  /** [V, d]. */
  readonly embedding: T;
  /** [positions, d], when positions are learned. */
  readonly positions: T | null;
  readonly layers: readonly LayerWeights<T>[];
  readonly finalNorm: NormWeights<T>;
}

/** A tensor of the checkpoint. */
export interface SourceTensor {
  readonly name: string;
  readonly shape: readonly number[];
}

/** A weight in GPU memory, and the checkpoint's tensors of which it is a stack (along the first axis). */
export interface WeightSource {
  readonly shape: readonly number[];
  readonly parts: readonly SourceTensor[];
  readonly role: WeightRole;
}

/** What a weight does: norms and biases are vectors; the rows of a table are looked up; the rest are linear layers. */
export type WeightRole = "vector" | "table" | "linear";

/** Where every weight of a decoder comes from. `prefix` is what the checkpoint's names begin with, by default the first. */
export function weightSources(config: DecoderConfig, prefix?: string): DecoderWeights<WeightSource> {
  const names = architectureOfClass(config.architecture)!.tensors;
  const start = prefix ?? names.prefixes[0];
  const { hiddenSize: d, heads, keyValueHeads, headSize, intermediateSize } = config;
  const source = (parts: SourceTensor[], role: WeightRole): WeightSource => {
    const [first, ...rest] = parts;
    const rows = rest.reduce((sum, { shape }) => sum + shape[0], first.shape[0]);
    return { shape: [rows, ...first.shape.slice(1)], parts, role };
  };
  const table = (name: string, rows: number) =>
    source([{ name: `${start}${name}.weight`, shape: [rows, d] }], "table");
  const norm = (name: string): NormWeights<WeightSource> => {
    const part = (end: string) => source([{ name: `${start}${name}.${end}`, shape: [d] }], "vector");
    return { weight: part("weight"), bias: config.norm.kind === "layer" ? part("bias") : null };
  };
  /** `outs`: the output widths of the parts; given one name, they lie fused in one tensor. */
  const linear = (
    at: string,
    parts: readonly string[],
    outs: readonly number[],
    into: number,
    bias: boolean,
  ): LinearWeights<WeightSource> => {
    const widths = parts.length === 1 ? [outs.reduce((a, b) => a + b, 0)] : outs;
    const part = (end: string, shape: (out: number) => number[]) =>
      parts.map((name, i) => ({ name: `${at}.${name}.${end}`, shape: shape(widths[i]) }));
    return {
      weight: source(
        part("weight", (out) => (config.linear === "out-in" ? [out, into] : [into, out])),
        "linear",
      ),
      bias: bias
        ? source(
            part("bias", (out) => [out]),
            "vector",
          )
        : null,
    };
  };
  const all = config.biases === "all";
  const layer = (n: number): LayerWeights<WeightSource> => {
    const name = `${names.layers}.${n}`;
    const at = `${start}${name}`;
    const qkvOuts = [heads, keyValueHeads, keyValueHeads].map((count) => count * headSize);
    const upOuts = new Array<number>(upWidth(config) / intermediateSize).fill(intermediateSize);
    return {
      inputNorm: norm(`${name}.${names.inputNorm}`),
      qkv: linear(at, names.qkv, qkvOuts, d, config.biases !== "none"),
      queryKeyNorm: config.queryKeyNorm
        ? source(
            names.queryKeyNorm!.map((part) => ({ name: `${at}.${part}.weight`, shape: [headSize] })),
            "vector",
          )
        : null,
      output: linear(at, [names.output], [d], heads * headSize, all),
      mlpNorm: norm(`${name}.${names.mlpNorm}`),
      up: linear(at, names.up, upOuts, d, all),
      down: linear(at, [names.down], [d], intermediateSize, all),
    };
  };
  return {
    embedding: table(names.embedding, config.vocabularySize),
    positions: config.positions.kind === "learned" ? table(names.positions!, config.maxPositions) : null,
    layers: Array.from({ length: config.layers }, (_, n) => layer(n)),
    finalNorm: norm(names.finalNorm),
  };
}

/** Every weight, in the order of the forward pass. */
export function everyWeight<T>(weights: DecoderWeights<T>): T[] {
  const both = ({ weight, bias }: NormWeights<T>) => [weight, bias];
  const all = [
    weights.embedding,
    weights.positions,
    ...weights.layers.flatMap((layer) => [
      ...both(layer.inputNorm),
      ...both(layer.qkv),
      layer.queryKeyNorm,
      ...both(layer.output),
      ...both(layer.mlpNorm),
      ...both(layer.up),
      ...both(layer.down),
    ]),
    ...both(weights.finalNorm),
  ];
  return all.filter((weight) => weight !== null);
}

/** Every tensor of the checkpoint that a decoder needs, in the order of the forward pass. */
export function sourceTensors(sources: DecoderWeights<WeightSource>): SourceTensor[] {
  return everyWeight(sources).flatMap(({ parts }) => parts);
}

/** The same structure with every weight replaced, one after the other in the order of `everyWeight`. */
export async function mapWeights<A, B>(
  weights: DecoderWeights<A>,
  change: (weight: A) => Promise<B> | B,
): Promise<DecoderWeights<B>> {
  const one = async (weight: A | null) => (weight === null ? null : await change(weight));
  const both = async ({ weight, bias }: NormWeights<A>) => ({
    weight: await change(weight),
    bias: await one(bias),
  });
  const embedding = await change(weights.embedding);
  const positions = await one(weights.positions);
  const layers: LayerWeights<B>[] = [];
  for (const layer of weights.layers) {
    layers.push({
      inputNorm: await both(layer.inputNorm),
      qkv: await both(layer.qkv),
      queryKeyNorm: await one(layer.queryKeyNorm),
      output: await both(layer.output),
      mlpNorm: await both(layer.mlpNorm),
      up: await both(layer.up),
      down: await both(layer.down),
    });
  }
  return { embedding, positions, layers, finalNorm: await both(weights.finalNorm) };
}
