import { rotaryFrequencies } from "../ops/rope.ts";
import type { Rotary } from "./decoder-config.ts";

/**
 * The angle in radians by which each pair of a head turns a position. Llama 3's scaling: frequencies whose wavelength
 * is longer than originalPositions / lowFrequencyFactor are divided by `factor`, those shorter than originalPositions /
 * highFrequencyFactor stay, and those between are interpolated (Llama 3.1 model card; transformers, rope_type "llama3").
 */
export function frequenciesOf({ dimensions, theta, scaling }: Rotary): readonly number[] {
  const frequencies = rotaryFrequencies(dimensions, theta);
  if (scaling === null) return frequencies;
  const { factor, lowFrequencyFactor, highFrequencyFactor, originalPositions } = scaling;
  return frequencies.map((frequency) => {
    const turns = (originalPositions * frequency) / (2 * Math.PI);
    const kept = (turns - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor);
    const share = Math.min(1, Math.max(0, kept));
    return share * frequency + ((1 - share) * frequency) / factor;
  });
}
