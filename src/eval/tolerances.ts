/**
 * The one place for numeric tolerances, each with its reason. Errors are measured as ||a - b|| / ||b|| over a tensor
 * (relative to the reference's own norm) with an absolute floor, because some gradients are zero in theory.
 */

/** f32 kernels against a float64 reference: sums of a few thousand terms in f32 lose about 1e-6 of the norm. */
export const KERNEL_F32 = 1e-5;

/** Whole models in f32 (tens of kernels in a row): rounding compounds over the depth. */
export const MODEL_F32 = 1e-4;

/** Frozen weights stored as f16: eleven bits of mantissa, 2^-11 = 4.9e-4 a weight, compounded over the layers. */
export const STORAGE_F16 = 5e-3;

/** Absolute floor of a tensor's error norm per element, for gradients that are zero in theory (attention key biases). */
export const ABSOLUTE_FLOOR = 1e-6;

/** Central finite differences in f32 with a step of 1e-2 to 1e-3: truncation and cancellation, not the gradient, set it. */
export const FINITE_DIFFERENCE = 2e-2;

/**
 * Central finite differences in float64 with a step of 1e-5: truncation (1e-10 of the third derivative) and
 * cancellation (1e-16 / 1e-5 of the loss) stay below it.
 */
export const FINITE_DIFFERENCE_F64 = 1e-6;
