/** The npm package `safetensors` comes without types; this is the part of it that we use. */
declare module "safetensors" {
  /**
   * A parsed file. The buffer must start at byte 0 of its ArrayBuffer; nothing is validated; `__metadata__` strings
   * are not supported (the constructor throws).
   */
  class SafeTensor {
    constructor(file: Uint8Array);
    readonly metadata: Map<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
    /** A view of the tensor's bytes, at no particular alignment. */
    getTensor(name: string): Uint8Array;
  }
  const library: { SafeTensor: typeof SafeTensor };
  export default library;
}
