import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import { bytesOf, isQuantized, sizeOf, type Tensor } from "../gpu/tensor.ts";
import { UploadBuffer } from "../gpu/upload.ts";
import {
  CONVERTED_TOGETHER,
  FILE_BITS,
  type FileRows,
  type FileType,
  type Place,
  storeWeights,
} from "../ops/convert-weights.ts";
import type { Checkpoint } from "./checkpoint-index.ts";
import { streamWeights, type WeightStorage } from "./weight-stream.ts";

/** A tensor of the checkpoint, and where it goes. */
export interface WeightJob {
  readonly name: string;
  /** In the checkpoint. */
  readonly shape: readonly number[];
  readonly storage: WeightStorage;
  /** With its axes exchanged. */
  readonly transposed: boolean;
  readonly target: Tensor;
  /** First byte in the target. */
  readonly byte: number;
}

/** A stretch of a job that is read, copied and converted at once. */
interface Piece {
  readonly job: WeightJob;
  /** Of the job. */
  readonly index: number;
  readonly type: FileType;
  /** The file, and where in it the tensor begins. */
  readonly path: string;
  readonly start: number;
  /** Elements of the tensor, in rows of `width`. */
  readonly first: number;
  readonly count: number;
  readonly width: number;
}

/** Elements of a piece: 16 MiB of f32. Large enough for a disk, small beside a model. */
const PIECE = 2 ** 22;
/** Bytes that may wait in the queue where the host converts: writeBuffer stages its data in host memory. */
const MOST_PENDING = 256 * 2 ** 20;

/**
 * Moves weights from a checkpoint into GPU memory. A piece is read straight into memory that the GPU copies from; while
 * one is read, the GPU stores and checks the one before, so that the disk sets the pace and not the host's arithmetic. What
 * is no whole groups of elements (of no published model), and the transposed matrices of a quantised GPT-2, the host
 * converts (`streamWeights`).
 *
 * @throws UserError naming the file, the tensor and the element that is NaN, infinite or beyond f16's range.
 */
export class WeightLoader {
  constructor(
    private readonly gpu: Gpu,
    private readonly checkpoint: Checkpoint,
    /** Called with the bytes of the checkpoint that were read and submitted since the last call. */
    private readonly onBytes: (bytes: number) => void,
  ) {}

  async load(jobs: readonly WeightJob[]): Promise<void> {
    await this.store(jobs.filter((job) => this.fitsGroups(job)));
    await this.stream(jobs.filter((job) => !this.fitsGroups(job)));
  }

  /** Whether the kernels can store it: they take whole groups, and quantise whole rows. */
  private fitsGroups({ name, shape, storage, transposed, byte }: WeightJob): boolean {
    if (transposed || !(this.checkpoint.info(name).dtype in FILE_BITS)) return false;
    const width = shape[shape.length - 1];
    if (isQuantized(storage)) return width % CONVERTED_TOGETHER === 0 && width <= this.mostElements;
    return sizeOf(shape) % CONVERTED_TOGETHER === 0 && byte % 16 === 0;
  }

  private async store(jobs: readonly WeightJob[]): Promise<void> {
    const pieces = jobs.flatMap((job, index) => this.pieces(job, index));
    if (pieces.length === 0) return;
    // As they lie on the disk.
    pieces.sort((a, b) =>
      a.path === b.path ? a.start - b.start || a.first - b.first : a.path < b.path ? -1 : 1,
    );
    const most = Math.max(...pieces.map(fileBytes));
    const uploads: UploadBuffer[] = [];
    const scratch: Tensor[] = [];
    let reading = Promise.resolve();
    try {
      for (let i = 0; i < 2; i++) uploads.push(new UploadBuffer(this.gpu, most));
      for (const words of [most / 4, jobs.length]) scratch.push(this.gpu.parameter([words], "u32"));
      const [words, found] = scratch;
      reading = this.read(pieces[0], uploads[0]);
      let storing = Promise.resolve();
      for (const [i, piece] of pieces.entries()) {
        await reading;
        const source = uploads[i % 2].tensor(fileBytes(piece) / 4);
        const step = this.gpu.step("load weights");
        storeWeights(step, source, words, rowsOf(piece), placeOf(piece), { tensor: found, at: piece.index });
        storing = step.submit();
        if (i + 1 < pieces.length) reading = this.read(pieces[i + 1], uploads[(i + 1) % 2]);
        // Both are awaited later; should another error come first, theirs are no unhandled rejections.
        for (const promise of [storing, reading]) promise.catch(() => {});
        this.onBytes(fileBytes(piece));
      }
      await storing;
      await this.refuse(jobs, (await this.gpu.read(found)) as Uint32Array);
    } catch (error) {
      // The GPU's own error has a name, that of a mapping which fails with it has none.
      this.gpu.check();
      throw error;
    } finally {
      await reading.catch(() => {});
      for (const upload of uploads) upload.destroy();
      for (const tensor of scratch) this.gpu.release(tensor);
    }
  }

  /** Elements of a piece: what one binding holds as f32, which begins up to 255 bytes before them. */
  private get mostElements(): number {
    return Math.min(PIECE, Math.floor(this.gpu.maxBindingBytes / 4) - 64);
  }

  /** As much as one binding holds, whole rows where they are quantised. */
  private pieces(job: WeightJob, index: number): Piece[] {
    const { dtype, path, start } = this.checkpoint.info(job.name);
    const width = isQuantized(job.storage) ? job.shape[job.shape.length - 1] : CONVERTED_TOGETHER;
    const step = this.mostElements - (this.mostElements % width);
    const size = sizeOf(job.shape);
    const pieces: Piece[] = [];
    for (let first = 0; first < size; first += step) {
      const count = Math.min(step, size - first);
      pieces.push({ job, index, type: dtype as FileType, path, start, first, count, width });
    }
    return pieces;
  }

  private read(piece: Piece, upload: UploadBuffer): Promise<void> {
    const offset = (piece.first * FILE_BITS[piece.type]) / 8;
    return upload.fill((memory) =>
      this.checkpoint.readInto(piece.job.name, offset, memory.subarray(0, fileBytes(piece))),
    );
  }

  /** Throws for the first job in which a number was refused: the host looks for it, and names it. */
  private async refuse(jobs: readonly WeightJob[], found: Uint32Array): Promise<void> {
    const refused = jobs.find((_, i) => found[i] !== 0);
    if (!refused) return;
    for await (const _ of streamWeights(this.checkpoint, refused.name, refused.storage));
    throw new Error(`tensor ${refused.name}: a number that the GPU refuses is one that the host takes`);
  }

  /** Has the host convert: what the kernels cannot take, and what they are compared with (bench/load.js). */
  async stream(jobs: readonly WeightJob[]): Promise<void> {
    let pending = 0;
    for (const { name, shape, storage, transposed, target, byte } of jobs) {
      const { bytes } = this.checkpoint.info(name);
      for await (const piece of streamWeights(this.checkpoint, name, storage, { transposed })) {
        const start = target.offset + byte + piece.byte;
        if (start % 4 !== 0)
          throw new UserError(`tensor ${name} has an odd number of elements; use --weights f32`);
        const words = piece.words as Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
        this.gpu.device.queue.writeBuffer(target.buffer, start, words);
        this.onBytes(bytes * (piece.elements / sizeOf(shape)));
        pending += words.byteLength;
        if (pending > MOST_PENDING) {
          pending = 0;
          await this.gpu.flush();
        }
      }
    }
  }
}

/** Bytes of a piece in its file. */
function fileBytes({ count, type }: Piece): number {
  return (count * FILE_BITS[type]) / 8;
}

function rowsOf({ type, count, width }: Piece): FileRows {
  return { type, rows: count / width, width };
}

function placeOf({ job, first, width }: Piece): Place {
  const byte = job.byte + bytesOf([first / width, width], job.storage);
  return { tensor: job.target, byte, storage: job.storage };
}
