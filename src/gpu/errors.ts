/** The GPU ran out of memory; nothing computed since the last completed step may be used. */
export class GpuOutOfMemoryError extends Error {
  override name = "GpuOutOfMemoryError";
}

/** The driver took the device away (a reset, a hang, an unplugged GPU). */
export class GpuLostError extends Error {
  override name = "GpuLostError";
}

/** Dawn refused a command: a defect of this program, never the user's. */
export class GpuValidationError extends Error {
  override name = "GpuValidationError";
}
