// Text files of any size, plain or gzip, read as a stream: only one chunk and one line are in memory at a time.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, stat } from "node:fs/promises";
import { pipeline } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { createGunzip } from "node:zlib";
import { fileError } from "../files/atomic.ts";
import { UserError } from "../files/user-error.ts";

/** Called while a file is read: bytes of the file (compressed, if it is) read so far, and its size. */
export type ReadProgress = (path: string, bytes: number, total: number) => void;

/** A line longer than this is no line: the file is something else (binary, or one huge JSON array). */
const LONGEST_LINE = 64 * 2 ** 20;

/** One text file. UserErrors name it when it is missing, empty, a folder, or a damaged gzip file. */
export class TextFile {
  readonly path: string;
  readonly #onProgress: ReadProgress | undefined;
  #sha256 = "";

  constructor(path: string, onProgress?: ReadProgress) {
    this.path = path;
    this.#onProgress = onProgress;
  }

  /** sha256 (hex) of the file's bytes as they are on disk; known once the file was read to its end. */
  get sha256(): string {
    return this.#sha256;
  }

  /** The content as chunks of bytes, decompressed. Compression is found by the file's first bytes, not its name. */
  async *bytes(): AsyncGenerator<Buffer> {
    const { size, gzip } = await this.#inspect();
    const hash = createHash("sha256");
    const onProgress = this.#onProgress;
    const path = this.path;
    const observe = async function* (source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
      let done = 0;
      for await (const chunk of source) {
        hash.update(chunk);
        done += chunk.length;
        onProgress?.(path, done, size);
        yield chunk;
      }
    };
    try {
      const source = createReadStream(path, { highWaterMark: 256 * 1024 });
      if (gzip) {
        const gunzip = createGunzip({ chunkSize: 256 * 1024 });
        // The callback is required; the error itself also reaches the loop below.
        pipeline(source, observe, gunzip, () => {});
        for await (const chunk of gunzip) yield chunk as Buffer;
      } else {
        yield* observe(source);
      }
    } catch (error) {
      throw this.#explain(error);
    }
    this.#sha256 = hash.digest("hex");
  }

  /**
   * Calls `visit` with every line (without its line end, numbered from 1; a byte order mark is removed) and returns
   * the number of lines. A line is a slice of a larger string: copy what is to be kept (see `ownCopy`).
   */
  async lines(visit: (line: string, number: number) => void): Promise<number> {
    const decoder = new StringDecoder("utf8");
    let rest = "";
    let number = 0;
    const emit = (line: string): void => {
      number++;
      const start = number === 1 && line.charCodeAt(0) === 0xfeff ? 1 : 0;
      const end = line.charCodeAt(line.length - 1) === 13 ? line.length - 1 : line.length;
      visit(line.slice(start, end), number);
    };
    for await (const chunk of this.bytes()) {
      const text = decoder.write(chunk);
      let start = 0;
      for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", start)) {
        emit(rest + text.slice(start, end));
        rest = "";
        start = end + 1;
      }
      rest += text.slice(start);
      if (rest.length > LONGEST_LINE) {
        throw new UserError(
          `${this.path}: line ${number + 1} is longer than ${LONGEST_LINE / 2 ** 20} MiB, expected one record a line; is it a text file?`,
        );
      }
    }
    rest += decoder.end();
    if (rest) emit(rest);
    return number;
  }

  /** The first line that is not blank, without reading further; "" when there is none. */
  async firstLine(): Promise<string> {
    const decoder = new StringDecoder("utf8");
    let text = "";
    for await (const chunk of this.bytes()) {
      text = (text + decoder.write(chunk)).replace(/^[\uFEFF\s]+/, "");
      if (text.includes("\n") || text.length > 2 ** 20) break;
    }
    return text.split("\n", 1)[0].replace(/\r$/, "");
  }

  async #inspect(): Promise<{ size: number; gzip: boolean }> {
    try {
      const status = await stat(this.path);
      if (status.isDirectory()) throw new UserError(`${this.path} is a folder, and a file was expected`);
      const handle = await open(this.path, "r");
      try {
        const start = Buffer.alloc(2);
        const { bytesRead } = await handle.read(start, 0, 2, 0);
        if (bytesRead === 0 && status.isFile())
          throw new UserError(`${this.path} is empty, and rows were expected`);
        const gzip = start[0] === 0x1f && start[1] === 0x8b;
        if (!gzip && this.path.endsWith(".gz")) {
          throw new UserError(
            `${this.path}: not a gzip file although named .gz; download it again or rename it`,
          );
        }
        return { size: status.size, gzip };
      } finally {
        await handle.close();
      }
    } catch (error) {
      throw fileError("read", this.path, error);
    }
  }

  #explain(error: unknown): unknown {
    const code = error instanceof Error ? String((error as NodeJS.ErrnoException).code ?? "") : "";
    if (code.startsWith("Z_")) {
      const what = code === "Z_BUF_ERROR" ? "the gzip file is cut off" : "the gzip file is damaged";
      return new UserError(`${this.path}: ${what} (${(error as Error).message}); download it again`);
    }
    return fileError("read", this.path, error);
  }
}

/** A copy that does not keep alive the large string it was cut from (engines share the memory of slices). */
export function ownCopy(text: string): string {
  return Buffer.from(text, "utf8").toString("utf8");
}
