/** The GPU ran out of memory; nothing computed since the last completed step may be used. */
export class GpuOutOfMemoryError extends Error {
  override name = "GpuOutOfMemoryError";
}

/** A tensor is larger than one binding of the adapter may cover, and the kernel cannot take it in windows. */
export class GpuBindingError extends Error {
  override name = "GpuBindingError";
}

/** The driver took the device away (a reset, a hang, an unplugged GPU). */
export class GpuLostError extends Error {
  override name = "GpuLostError";
}

/** Dawn refused a command: a defect of this program, never the user's. */
export class GpuValidationError extends Error {
  override name = "GpuValidationError";
}
