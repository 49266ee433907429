import type { WeightStorage } from "../llm/weight-stream.ts";

/**
 * The one place for numeric tolerances, each with its reason. Errors are measured as ||a - b|| / ||b|| over a tensor
 * (relative to the reference's own norm) with an absolute floor, because some gradients are zero in theory.
 */

/** f32 kernels against a float64 reference: sums of a few thousand terms in f32 lose about 1e-6 of the norm. */
export const KERNEL_F32 = 1e-5;

/** Whole models in f32 (tens of kernels in a row): rounding compounds over the depth. */
export const MODEL_F32 = 1e-4;

/**
 * Frozen weights in each storage, against references that keep them in f32: one kernel, and whole models (hidden states
 * and gradients, tens of products deep). Not how exactly a storage is computed with (KERNEL_F32 holds for that, against
 * dequantised weights: test/product-storage.test.ts), but how far rounding the weights moves the result.
 */
export const STORAGE: Readonly<Record<WeightStorage, { readonly kernel: number; readonly model: number }>> = {
  f32: { kernel: KERNEL_F32, model: MODEL_F32 },
  // Eleven bits of mantissa, 2^-11 = 4.9e-4 a weight, compounded over the layers.
  f16: { kernel: 5e-3, model: 5e-3 },
  // The largest of 64 normal weights is at about 2.5 sigma, a step 2.5 / 128 sigma, its rounding error 1 / sqrt(12) of
  // that: 0.56 % of a weight, so of a sum of products. Models: up to 4.4 % (stories260K), the gradients more than h.
  int8: { kernel: 1e-2, model: 0.1 },
  // Sixteen times as much, 9 %. Deep in a model of random weights, gradients differ by up to 80 %; a gradient that has
  // nothing to do with the reference differs by 140 %, one of the wrong sign by 200 %.
  int4: { kernel: 0.15, model: 1 },
};

/** Absolute floor of a tensor's error norm per element, for gradients that are zero in theory (attention key biases). */
export const ABSOLUTE_FLOOR = 1e-6;

/** Central finite differences in f32 with a step of 1e-2 to 1e-3: truncation and cancellation, not the gradient, set it. */
export const FINITE_DIFFERENCE = 2e-2;

/**
 * Central finite differences in float64 with a step of 1e-5: truncation (1e-10 of the third derivative) and
 * cancellation (1e-16 / 1e-5 of the loss) stay below it.
 */
export const FINITE_DIFFERENCE_F64 = 1e-6;

/**
 * Least cosine between the hidden states at the suffix with weights in a storage and in f16, on trained backbones. For int4
 * it is reported (0.99 on shop-llama, 0.84 on stories260K, whose width of 64 is one group) and only held against collapse.
 */
export const SUFFIX_COSINE: Readonly<Record<Exclude<WeightStorage, "f16">, number>> = {
  f32: 0.9999,
  int8: 0.999,
  int4: 0.8,
};
