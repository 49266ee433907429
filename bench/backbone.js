/**
 * What the benchmarks of the model share: Llamas with random weights, texts, and how figures are written.
 */
import { laser, noise } from "./harness.js";

/** A Llama's shape: d, layers, heads, key/value heads, F, V. */
export function llamaConfig({ d, layers, heads, keyValueHeads = heads, intermediate, vocabulary = 1000 }) {
  return laser.parseDecoderConfig("the benchmark", {
    architectures: ["LlamaForCausalLM"],
    hidden_size: d,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: keyValueHeads,
    intermediate_size: intermediate,
    vocab_size: vocabulary,
    rms_norm_eps: 1e-5,
  });
}

/**
 * Random weights of magnitude about 1 / sqrt(d) that f16 holds exactly, so that models of one seed compute the same
 * from f32 and f16. storage: "f32" | "f16" | "int8" | "int4".
 */
export async function randomLlama(gpu, config, storage) {
  const exponent = Math.ceil(Math.log2(config.hiddenSize) / 2);
  let seed = 1;
  const weight = (source) => {
    const { shape, storage: placed } = laser.placementOf(source, config, storage);
    const bits = new Uint32Array(noise(shape[0] * shape[1], seed++).buffer);
    // The sign and the upper mantissa bits of the noise, with one exponent for all.
    const values = Float32Array.from(bits, (word) => {
      const magnitude = 2 ** -exponent * (1 + ((word >>> 13) & 0x3ff) / 1024);
      return word >>> 31 ? -magnitude : magnitude;
    });
    return gpu.parameter(shape, placed, laser.packWeights(values, shape[1], placed));
  };
  const norm = (width) => gpu.parameter([width], "f32", new Float32Array(width).fill(1));
  const weights = await laser.mapWeights(laser.weightSources(config), (source) =>
    source.role === "vector" ? norm(source.shape[0]) : weight(source),
  );
  return new laser.Decoder(config, weights);
}

/** Texts of random tokens, and random items that each shows: lengths run evenly from `shortest` to `longest`. */
export function randomTexts({ count, shortest, longest, vocabulary, history = 1, items = 1 }) {
  const random = new laser.Random(1, "benchmark texts");
  return Array.from({ length: count }, (_, i) => {
    const length = Math.round(shortest + ((longest - shortest) * i) / Math.max(1, count - 1));
    const ids = Uint32Array.from({ length }, () => random.below(vocabulary));
    return { ids, items: Array.from({ length: history }, () => random.below(items)) };
  });
}

/** A count with its thousands separated. */
export function thousands(value) {
  return Math.round(value).toLocaleString("en-US");
}
